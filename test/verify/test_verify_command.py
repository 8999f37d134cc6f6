"""``sglang-marconi verify`` against a made-up server: what it asks, says and returns."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from io import StringIO
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from sglang_marconi.cli import main
from sglang_marconi.cli.verify import page
from sglang_marconi.verify import workloads
from sglang_marconi.verify.calibration import Calibrated, calibrate
from sglang_marconi.verify.facts import Facts, facts_of
from sglang_marconi.verify.noise import Noise
from sglang_marconi.verify.reproduction import Wrong, reproduce
from sglang_marconi.verify.run import examine
from sglang_marconi.verify.sender import Sender
from sglang_marconi.verify.server import Request, Server
from sglang_marconi.verify.verdict import (
    Calibration,
    Control,
    Report,
    Reproduction,
    Verdict,
    WorkloadResult,
)
from support.fake_sglang import FakeSGLang, fake_sglang


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeSGLang]:
    monkeypatch.chdir(tmp_path)
    with fake_sglang() as server:
        yield server
    assert server.outside == []


def verify(fake: FakeSGLang, *arguments: str) -> int:
    """The command's exit status."""
    try:
        main(["verify", fake.url, *arguments])
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code
    return 0


def report(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_right_server_is_exact(fake: FakeSGLang, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(fake, "--json") == 0
    found = report(capsys)
    assert (found["verdict"], found["cold"], found["reproduction"]) == ("exact", "flush", None)
    names = [workload["name"] for workload in found["workloads"]]
    assert names == [workload.name for workload in workloads.WORKLOADS]
    for workload in found["workloads"]:
        assert workload["verdict"] == "exact", workload
        assert workload["reused"] > 0
        assert workload["largest_shift"] == 0
    assert_some_were_gone(found)
    assert found["server"]["backend"] == "marconi"
    assert found["calibration"]["other_prefix"] == {"found": 8, "of": 8}
    assert found["calibration"]["token_twice"] == {"found": 8, "of": 8}
    assert_asked_well(fake.requests)


def assert_some_were_gone(found: Any) -> None:
    [eviction] = (w for w in found["workloads"] if w["name"] == "eviction")
    gone, _, others = map(int, re.findall(r"\d+", eviction["note"]))
    assert gone > 0
    # It holds about a hundred of them.
    assert others < 400


def test_what_is_gone_is_soon_found_whatever_goes_first(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.evicts_latest = True
    assert verify(fake, "--json") == 0
    assert_some_were_gone(report(capsys))


def assert_asked_well(requests: list[dict[str, Any]]) -> None:
    """Nothing but greedy, and everything that a workload is for."""
    for body in requests:
        sampling = body["sampling_params"]
        assert sampling["temperature"] == 0
        assert sampling["repetition_penalty"] == 1
        assert sampling["ignore_eos"] is ("stop_token_ids" not in sampling)
        assert body.get("top_logprobs_num", 0) > 1 or "return_logprob" not in body
    lengths = [len(body["input_ids"]) for body in requests]
    assert max(lengths) > 256, "no prompt is longer than the server's chunk"
    assert max(lengths) < 4000
    assert any("stop_token_ids" in body["sampling_params"] for body in requests)
    assert any("return_logprob" not in body for body in requests)
    assert any(body.get("stream") for body in requests)


@pytest.mark.parametrize("drift", [0.01, 1.0])
def test_a_server_that_reuse_misleads_differs(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str], tmp_path: Path, drift: float
) -> None:
    fake.drift = drift
    assert verify(fake, "--json", "--reproduction", str(tmp_path / "found.json")) == 1
    found = report(capsys)
    assert found["verdict"] == "differs"
    assert all(workload["verdict"] == "differs" for workload in found["workloads"])
    written = json.loads((tmp_path / "found.json").read_text())
    assert written == found["reproduction"]
    assert written["confirmed"]
    assert written["workload"] == "branching"
    # One request before it leaves something to reuse, and that is enough.
    assert [len(step) for step in written["steps"]] == [1, 1]
    fake.prefixes.clear()
    *_, last = (fake.generate(call["body"]) for step in written["steps"] for call in step)
    assert last["output_ids"] == written["got"]["tokens"]
    assert last["meta_info"]["cached_tokens"] > 0


def test_a_noisy_server_is_within_its_noise(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.noise = 0.02
    assert verify(fake, "--json") == 0
    found = report(capsys)
    assert found["verdict"] == "noise"
    assert sum(workload["changed"] for workload in found["workloads"]) > 0
    assert found["calibration"]["again"] > 0.02


def test_a_noisy_server_does_not_hide_what_is_wrong(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.noise, fake.drift = 0.02, 0.3
    assert verify(fake, "--json") == 1
    assert report(capsys)["verdict"] == "differs"


def test_a_reproduction_leaves_out_what_has_no_part(fake: FakeSGLang) -> None:
    prefix = tuple(range(1000, 1040))
    *before, request = [Request((*prefix, *range(1100 + n, 1120 + n)), 6) for n in range(7)]

    async def asked() -> Reproduction:
        async with Server(fake.url) as server:
            expected = await server.cold(request)
            fake.drift = 1.0
            send = Sender(server, [*prefix], "")
            for one in before:
                await send.ask(one)
            await send.ask(request)
            wrong = send.seen[-1]
            assert wrong.answer != expected
            return await reproduce(
                server, Wrong("made", wrong, expected, send.steps, lambda got: got != expected)
            )

    found = asyncio.run(asked())
    assert found.confirmed
    # Any one of those before it would do.
    assert [len(step) for step in found.steps] == [1, 1]
    assert found.steps[-1][0].body["input_ids"] == list(request.prompt)
    assert found.got != found.expected


@pytest.mark.parametrize(("drift", "verdict"), [(0.0, Verdict.NOISE), (1.0, Verdict.DIFFERS)])
def test_before_a_server_is_accused_its_noise_is_measured_again(
    fake: FakeSGLang, drift: float, verdict: Verdict
) -> None:
    fake.noise = 0.02

    async def asked() -> Report:
        async with Server(fake.url) as server:
            ids = await server.ordinary_ids()
            found = (await calibrate(server, ids, 0, quietly)).found
            fake.drift = drift
            # As a calibration that happened to see little of it.
            little = Calibrated(Noise([[0.02] * 16]), found)
            return await examine(server, ids, little, seed=0, progress=quietly)

    assert asyncio.run(asked()).verdict is verdict


def quietly(name: str, done: int, total: int | None) -> None:
    pass


def test_a_reply_that_reuse_cuts_short_differs(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.ends_early = True
    assert verify(fake) == 1
    assert "the end instead of" in capsys.readouterr().out
    assert Path("verify-differs.json").exists()


def test_without_reuse_nothing_is_called_exact(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.reuses = False
    assert verify(fake, "--json") == 2
    found = report(capsys)
    assert found["verdict"] == "not_reused"
    assert {workload["verdict"] for workload in found["workloads"]} == {"not_reused"}


@pytest.mark.parametrize("fault", [{"noise": 20.0}, {"reads_prompts": False}])
def test_where_a_wrong_state_could_not_be_seen_nothing_is_said(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str], fault: dict[str, Any]
) -> None:
    vars(fake).update(fault)
    assert verify(fake, "--json") == 2
    assert report(capsys)["verdict"] == "unsure"


@pytest.mark.parametrize("arguments", [("--no-flush",), ()])
def test_where_flushing_is_not_allowed_a_salt_keeps_requests_cold(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    fake.may_flush = bool(arguments)
    assert verify(fake, *arguments, "--json") == 0
    found = report(capsys)
    assert (found["verdict"], found["cold"]) == ("exact", "salt")
    assert fake.flushes == 0
    assert len({body["cache_salt"] for body in fake.requests if "cache_salt" in body}) > 50


def test_a_cache_that_cannot_be_emptied_is_an_error(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.may_flush = fake.minds_salts = False
    assert verify(fake) == 2
    assert "neither by a flush nor by a salt" in capsys.readouterr().err


def test_without_a_tokenizer_prompts_are_made_of_what_the_model_says(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.has_tokenizer = False
    assert verify(fake, "--json") == 0
    assert report(capsys)["verdict"] == "exact"


def test_the_key_is_sent(fake: FakeSGLang, capsys: pytest.CaptureFixture[str]) -> None:
    fake.key = "secret"
    assert verify(fake) == 2
    assert "/server_info: 401" in capsys.readouterr().err
    assert verify(fake, "--api-key", "secret") == 0


def test_a_server_that_ends_is_status_2(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str]
) -> None:
    # Amid requests that were sent together.
    fake.refuses_from = 100
    assert verify(fake) == 2
    assert "/generate: 400" in capsys.readouterr().err


def test_what_does_not_fit_the_server_is_skipped(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.info["chunked_prefill_size"] = -1
    assert verify(fake) == 0
    out = capsys.readouterr().out
    assert "chunked: prefills are not chunked" in out
    assert re.search("│ chunked .* skipped", out)


@pytest.mark.parametrize("width", [80, 140])
def test_all_that_is_said_fits_a_terminal(width: int) -> None:
    of_workloads = set(Verdict) - {Verdict.UNSURE}
    results = [
        WorkloadResult(
            name=workload.name,
            verdict=verdict,
            requests=105,
            reused=104,
            cached_tokens=1_120_000,
            prompt_tokens=1_220_000,
            largest_shift=0.000012,
        )
        for workload, verdict in zip(workloads.WORKLOADS, cycle(of_workloads), strict=False)
    ]
    control = Control(8, 8)
    found = Calibration(
        again=0.0, company=0.1, reread=0.1, bound=0.3, other_prefix=control, token_twice=control
    )
    said = Report(
        verdict=Verdict.NOISE,
        summary="as it is",
        server={"url": "http://127.0.0.1:30000", **msgspec.to_builtins(Facts())},
        cold="flush",
        seed=0,
        calibration=found,
        workloads=results,
        reproduction=None,
    )
    printed = StringIO()
    Console(file=printed, width=width).print(page(said, Path("found.json")))
    lines = printed.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in printed.getvalue()
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == len(results), "a row is broken over two lines"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1:9", "http://no host:1"])
def test_no_server_is_status_2(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", url])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("sglang-marconi: http://")


def test_facts_are_those_that_the_scheduler_ended_up_with() -> None:
    facts = facts_of(
        {
            "max_running_requests": None,
            "chunked_prefill_size": -1,
            "max_req_input_len": 100,
            "internal_states": [
                {
                    "effective_max_running_requests_per_dp": 3,
                    "uses_mamba_radix_cache": True,
                    "max_mamba_cache_size": 7,
                }
            ],
        }
    )
    assert (facts.running, facts.chunk, facts.longest, facts.state_slots) == (3, None, 100, 7)
    assert facts.backend == "SGLang's own"
    assert facts_of({"internal_states": [{"max_mamba_cache_size": 7}]}).state_slots is None
    assert facts_of({"disable_radix_cache": True}).backend == "none"
    assert facts_of({}) == Facts()
