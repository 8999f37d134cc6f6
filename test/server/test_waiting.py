"""Requests that arrive together: one computes what they share, the others resume there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES, build_family
from local_server import LocalServer
from support.client import Reply, flush, generate, generate_batch, post
from support.forked_server import ForkedServer
from support.prompts import tokens
from support.reference import Reference, assert_same

pytestmark = pytest.mark.server

DECODED = 8
SERVING = (
    *("--radix-cache-backend", "marconi", "--enable-cache-report"),
    *("--max-total-tokens", "32768", "--max-running-requests", "8"),
)
SLOTS = ("--max-mamba-cache-size", "16")
EXTRA_BUFFER = ("--mamba-radix-cache-strategy", "extra_buffer")
SERVERS = {
    "extra_buffer": (*SLOTS, *EXTRA_BUFFER),
    "no_buffer": (
        *(*SLOTS, "--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"),
        *("--chunked-prefill-size", "128"),
    ),
    "mixed": (
        *(*SLOTS, *EXTRA_BUFFER, "--schedule-policy", "lpm"),
        *("--chunked-prefill-size", "256", "--enable-mixed-chunk"),
    ),
    "random": (
        *(*SLOTS, "--schedule-policy", "random"),
        *("--chunked-prefill-size", "-1", "--mem-fraction-static", "0.5"),
    ),
    "pages": (*EXTRA_BUFFER, "--page-size", "64", "--max-mamba-cache-size", "48"),
    "store": (
        *("--max-mamba-cache-size", "48", "--schedule-policy", "dfs-weight"),
        *("--radix-eviction-policy-config", '{"checkpoint_memory": 0.5}'),
    ),
}


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    with ForkedServer(model, *SERVING, *SERVERS[request.param], log_path=log) as running:
        running.page = 64 if request.param == "pages" else 1
        yield running


def whole(server: LocalServer, count: int) -> int:
    """The whole KV pages of so many tokens."""
    return count // server.page * server.page


def forks(prefix: Sequence[int], count: int, seed: int, rest: int = 40) -> list[list[int]]:
    return [[*prefix, *tokens(rest, seed=seed + number)] for number in range(count)]


def at_once(
    server: LocalServer, reference: Reference, prompts: Sequence[Sequence[int]]
) -> list[int]:
    """What each of the prompts reuses, sent together to an empty cache; answers are compared."""
    flush(server.url)
    replies = generate_batch(server.url, prompts, DECODED)
    reference.check([(prompt, DECODED) for prompt in prompts], replies)
    return sorted(reply.cached_tokens for reply in replies)


def test_equal_prompts(server: LocalServer, reference: Reference) -> None:
    found = at_once(server, reference, [tokens(700, seed=1)] * 8)
    assert found == [0] + [whole(server, 699)] * 7


def test_forks(server: LocalServer, reference: Reference) -> None:
    prompts = forks(tokens(500, seed=2), 8, seed=20)
    # A flush between bursts: nothing of the first is waited for in the second.
    for _ in range(2):
        assert at_once(server, reference, prompts) == [0] + [whole(server, 500)] * 7


def test_forks_of_two_prefixes(server: LocalServer, reference: Reference) -> None:
    first = forks(tokens(300, seed=3), 5, seed=30)
    second = forks(tokens(300, seed=4), 5, seed=40)
    prompts = [prompt for pair in zip(first, second, strict=True) for prompt in pair]
    assert at_once(server, reference, prompts) == [0, 0] + [whole(server, 300)] * 8


def test_forks_of_forks(server: LocalServer, reference: Reference) -> None:
    """One prefix of all, and two longer ones of half of them each: four hits on the long ones."""
    trunk = tokens(320, seed=5)
    boughs = [[*trunk, *tokens(192, seed=50 + number)] for number in range(2)]
    prompts = [prompt for at, bough in enumerate(boughs) for prompt in forks(bough, 4, 60 + 9 * at)]
    found = at_once(server, reference, prompts)
    assert found == [0, whole(server, 320)] + [whole(server, 512)] * 6


def test_a_prompt_and_its_continuations(server: LocalServer, reference: Reference) -> None:
    prompt = tokens(320, seed=6)
    prompts = [prompt, *forks(prompt, 3, seed=70), prompt]
    found = at_once(server, reference, prompts)
    # A prompt resumes before its own last token. A second state one token later is not worth its
    # room, one a page later is.
    ends, continues = whole(server, 319), whole(server, 320) if server.page > 1 else 319
    assert found[0] == 0
    assert found[1:] in (sorted([ends] * own + [continues] * (4 - own)) for own in (1, 2))


def test_samples_of_one_prompt(server: LocalServer) -> None:
    flush(server.url)
    asked: dict[str, Any] = {"temperature": 0, "max_new_tokens": DECODED, "n": 8}
    body = {"input_ids": tokens(400, seed=7), "sampling_params": asked}
    replies = post(server.url, "/generate", body)
    found = sorted(reply["meta_info"]["cached_tokens"] for reply in replies)
    # SGLang has the prompt computed before, of which a tracked state may be there.
    assert found[0] in (0, whole(server, 399))
    assert found[1:] == [whole(server, 399)] * 7
    assert len({tuple(reply["output_ids"]) for reply in replies}) == 1


def test_prompts_whose_log_probabilities_are_asked_for(server: LocalServer) -> None:
    """They are computed whole, and wait for nobody."""
    flush(server.url)
    prompt = tokens(400, seed=8)
    asked = {"temperature": 0, "max_new_tokens": 1}
    replies = post(
        server.url,
        "/generate",
        {
            "input_ids": [prompt] * 4,
            "sampling_params": asked,
            "return_logprob": True,
            "logprob_start_len": 0,
        },
    )
    assert [reply["meta_info"]["cached_tokens"] for reply in replies] == [0] * 4
    first, *others = [
        [entry[0] for entry in reply["meta_info"]["input_token_logprobs"][1:]] for reply in replies
    ]
    assert len(first) == len(prompt) - 1
    for other in others:
        assert other == pytest.approx(first, abs=1e-4)


def test_namespaces_share_nothing(server: LocalServer) -> None:
    flush(server.url)
    prompt = tokens(400, seed=9)
    replies = post(
        server.url,
        "/generate",
        {
            "input_ids": [prompt] * 6,
            "extra_key": ["a", "b", "a", "b", "a", "b"],
            "sampling_params": {"temperature": 0, "max_new_tokens": DECODED},
        },
    )
    found = [reply["meta_info"]["cached_tokens"] for reply in replies]
    for own in (found[::2], found[1::2]):
        assert sorted(own) == [0, whole(server, 399), whole(server, 399)]


def prefill_passes(server: LocalServer) -> int:
    """How many the server has run since it started."""
    return server.log_path.read_text().count("Prefill batch")


def test_who_shares_nothing_does_not_wait(model: Path, tmp_path: Path) -> None:
    """Prompts that share nothing, or too little to save anything, are one pass; as many in the
    midst of a burst go with its first."""
    log = tmp_path / "server.log"
    slots = ("--max-mamba-cache-size", "48")
    with ForkedServer(model, *SERVING, *slots, log_path=log) as server:
        before = prefill_passes(server)
        generate_batch(server.url, forks(tokens(9, seed=10), 6, seed=100), 1)
        assert prefill_passes(server) - before == 1
        flush(server.url)
        before = prefill_passes(server)
        burst = forks(tokens(300, seed=11), 4, seed=110)
        alone = [tokens(50, seed=120 + number) for number in range(3)]
        replies = generate_batch(server.url, [*burst[:2], *alone, *burst[2:]], 1)
        assert [reply.cached_tokens for reply in replies] == [0, 300, 0, 0, 0, 300, 300]
        assert prefill_passes(server) - before == 2


@pytest.mark.parametrize("overlap", [True, False])
def test_the_one_the_others_wait_for_is_aborted(
    overlap: bool, model: Path, reference: Reference, tmp_path: Path
) -> None:
    options = () if overlap else ("--disable-overlap-schedule",)
    arguments = (*SERVING, *SERVERS["extra_buffer"], "--chunked-prefill-size", "64", *options)
    prompts = forks(tokens(3000, seed=12), 6, seed=130)
    with ForkedServer(model, *arguments, log_path=tmp_path / "server.log") as server:
        generate(server.url, tokens(600, seed=13), 1)
        flush(server.url)
        before = prefill_passes(server)
        body = {
            "rid": [f"request-{number}" for number in range(6)],
            "input_ids": prompts,
            "sampling_params": {"temperature": 0, "max_new_tokens": DECODED, "ignore_eos": True},
            "return_logprob": True,
        }
        answers: list[dict[str, Any]] = []
        sent = threading.Thread(target=lambda: answers.extend(post(server.url, "/generate", body)))
        sent.start()
        while prefill_passes(server) < before + 5:
            threading.Event().wait(0.005)
        post(server.url, "/abort_request", {"rid": "request-0"})
        sent.join(timeout=120)
        passes = prefill_passes(server) - before
    reasons = [answer["meta_info"]["finish_reason"]["type"] for answer in answers]
    assert reasons == ["abort"] + ["length"] * 5
    found = sorted(answer["meta_info"]["cached_tokens"] for answer in answers[1:])
    assert found[0] < 3000
    assert found[1:] == [3000] * 4
    # The one that was aborted had not come far.
    assert passes < 2 * len(prompts[0]) // 64
    replies = [
        Reply(
            answer["output_ids"],
            [entry[0] for entry in answer["meta_info"]["output_token_logprobs"]],
            answer["meta_info"]["cached_tokens"],
        )
        for answer in answers[1:]
    ]
    reference.check([(prompt, DECODED) for prompt in prompts[1:]], replies)


@pytest.mark.parametrize("chunk", ["-1", "128"])
def test_where_prefills_are_cut(chunk: str, tmp_path: Path) -> None:
    """Where no state can be had inside a pass, the first one is cut where the others part."""
    family = FAMILIES["ling-2.5"]
    model = build_family(tmp_path / "model", "ling-2.5")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "linear_backend": "minimax"}))
    arguments = (
        *(*SERVING, *family.serving, "--max-mamba-cache-size", "48", "--page-size", "1"),
        *("--chunked-prefill-size", chunk, "--mem-fraction-static", "0.5"),
    )
    prompts = forks(tokens(300, seed=14), 5, seed=140)
    with ForkedServer(model, *arguments, log_path=tmp_path / "server.log") as server:
        cold = []
        for prompt in prompts:
            flush(server.url)
            cold.append(generate(server.url, prompt, DECODED))
        flush(server.url)
        warm = generate_batch(server.url, prompts, DECODED)
    assert sorted(reply.cached_tokens for reply in warm) == [0] + [300] * 4
    for reply, expected in zip(warm, cold, strict=True):
        assert_same(reply, expected)
