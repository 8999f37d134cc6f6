"""The command line, on small traces."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from sglang_marconi.cli import main
from sglang_marconi.records import RequestRecord, RunRecord, read_records
from support.fake_server import fake_server


def write_trace(path: Path, sessions: int = 6) -> Path:
    """Conversations of three turns over one system prompt, in the incremental format."""
    system = list(range(100, 300))
    lines = [
        {
            "session_id": session,
            "turn_id": turn,
            "ts": 10.0 * turn + session,
            "new_tokens": (system if turn == 0 else []) + [1000 + 10 * session + turn] * 20,
            "output_tokens": [5000 + session, 6, 7],
        }
        for turn in range(3)
        for session in range(sessions)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def test_a_replay_writes_a_record_for_each_run_and_each_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write_trace(tmp_path / "chats.jsonl")
    runs, requests = tmp_path / "runs.jsonl", tmp_path / "requests.jsonl"
    main(
        [
            *("replay", str(trace), "--policy", "lru,auto,unlimited", "--budget", "100MB,1GB"),
            *("--json", str(runs), "--per-request", str(requests), "--jobs", "2"),
        ]
    )
    records = read_records(runs, RunRecord)
    assert [(r.policy, r.budget_bytes) for r in records] == [
        *(("lru", 10**8), ("lru", 10**9), ("auto", 10**8), ("auto", 10**9)),
        ("unlimited", None),
    ]
    assert {r.trace for r in records} == {"chats"}
    assert {r.requests for r in records} == {18}
    by_request = read_records(requests, RequestRecord)
    assert len(by_request) == 5 * 18
    for record in records:
        mine = [
            r
            for r in by_request
            if (r.policy, r.budget_bytes) == (record.policy, record.budget_bytes)
        ]
        assert record.hit_tokens == sum(r.hit_tokens for r in mine)
    assert "unlimited" in capsys.readouterr().out


def test_a_compressed_trace_has_the_name_and_the_hits_of_the_other(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "chats.jsonl")
    compressed = tmp_path / "chats.jsonl.gz"
    compressed.write_bytes(gzip.compress(trace.read_bytes()))
    found = []
    for file in (trace, compressed):
        main(["replay", str(file), "--json", str(tmp_path / "runs")])
        found += [(run.trace, run.hit_tokens) for run in read_records(tmp_path / "runs", RunRecord)]
    assert found[0] == found[1]
    assert found[0][0] == "chats"


def test_text_without_a_tokenizer_names_the_option(tmp_path: Path) -> None:
    trace = tmp_path / "chats.jsonl"
    trace.write_text('{"messages": [{"role": "user", "content": "how are you"}]}\n')
    with pytest.raises(SystemExit, match="pass --tokenizer with the path"):
        main(["replay", str(trace)])


def test_parallel_runs_give_what_single_ones_give(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "chats.jsonl")
    found = []
    for jobs in ("1", "2"):
        file = tmp_path / jobs
        main(["replay", str(trace), "--policy", "lru,marconi", "--json", str(file), "--jobs", jobs])
        found.append([(r.hit_tokens, r.peak_bytes) for r in read_records(file, RunRecord)])
    assert found[0] == found[1]


def test_a_report_can_be_drawn_again(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "chats.jsonl")
    latency = tmp_path / "latency.json"
    latency.write_text("[[0, 0.01], [1000, 0.5]]")
    report = tmp_path / "report"
    main(["replay", str(trace), "--report", str(report), "--latency", str(latency)])
    page = (report / "report.html").read_text()
    (report / "report.html").unlink()
    main(["report", str(report)])
    assert (report / "report.html").read_text() == page


def test_simulator_and_server_lie_side_by_side(tmp_path: Path) -> None:
    trace, file = write_trace(tmp_path / "chats.jsonl"), tmp_path / "runs"
    requests = tmp_path / "requests"
    with fake_server() as server:
        main(
            [
                *("replay", str(trace), "--server", server.url, "--concurrency", "2"),
                *("--policy", "lru", "--json", str(file), "--per-request", str(requests)),
            ]
        )
    simulated, served = read_records(file, RunRecord)
    assert (simulated.policy, served.policy) == ("lru", "server")
    assert simulated.prompt_tokens == served.prompt_tokens
    assert served.hit_tokens == sum(
        r.hit_tokens for r in read_records(requests, RequestRecord) if r.policy == "server"
    )
    assert served.ttft_p50 is not None
    assert served.flops_saved > 0


def test_simulated_requests_arrive_one_by_one_or_together(tmp_path: Path) -> None:
    """Two pairs of the same prompt, each at one instant: of those of a pass none sees another."""
    trace, file = tmp_path / "pairs.jsonl", tmp_path / "runs"
    with trace.open("w") as lines:
        for number in range(4):
            record = {"session_id": number, "turn_id": 0, "ts": number // 2}
            record |= {"input_tokens": list(range(500)), "output_tokens": [number, 1]}
            lines.write(json.dumps(record) + "\n")

    def hits(*arguments: str) -> list[int]:
        main(["replay", str(trace), *arguments, "--per-request", str(file)])
        return [record.hit_tokens for record in read_records(file, RequestRecord)]

    assert hits("--policy", "lru") == [0, 0, 499, 499]
    assert hits("--policy", "lru", "--speed", "1") == [0, 0, 0, 0]
    assert hits("--policy", "auto", "--speed", "1") == [0, 499, 499, 499]
    assert hits("--policy", "auto", "--concurrency", "4") == [0, 499, 499, 499]


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"127\.0\.0\.1:9"):
        main(["replay", "lmsys:sessions=1", "--server", "http://127.0.0.1:9"])


def test_a_folder_without_records_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"runs\.jsonl"):
        main(["report", str(tmp_path)])
    (tmp_path / "runs.jsonl").write_text('{"trace": 1}\n')
    with pytest.raises(SystemExit, match=tmp_path.name):
        main(["report", str(tmp_path)])


def test_workloads_have_settings(tmp_path: Path) -> None:
    file = tmp_path / "runs"
    main(["replay", "lmsys:sessions=4,seed=2,turns=3", "--limit", "5", "--json", str(file)])
    (run,) = read_records(file, RunRecord)
    assert (run.trace, run.requests) == ("lmsys:sessions=4,seed=2,turns=3", 5)


def test_broken_records_are_skipped_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write_trace(tmp_path / "chats.jsonl")
    lines = trace.read_text().splitlines()
    trace.write_text("\n".join([*lines[:-1], "{"]) + "\n")
    with pytest.raises(SystemExit, match=r"chats\.jsonl:18"):
        main(["replay", str(trace)])
    main(["replay", str(trace), "--skip-bad"])
    captured = capsys.readouterr()
    assert "chats.jsonl:18" in captured.err
    assert "1 broken record" in captured.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nothing.jsonl"], "nothing.jsonl"),
        (["lmsys:speed=1"], "speed"),
        (["lmsys:sessions=x"], "sessions=x"),
        (["lmsys", "--model", "gpt-5"], "gpt-5"),
        (["lmsys", "--policy", "oracle", "--two-pools"], "two pools"),
        (["lmsys", "--policy", "marconi", "--concurrency", "2"], "marconi:ALPHA"),
        (["lmsys", "--policy", "vllm+", "--speed", "1"], "one request at a time"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], named: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", *arguments])
    message = str(ended.value)
    assert named in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--policy", "fifo"], "fifo"),
        (["--budget", "5XB"], "5XB"),
        (["--budget", "-1GB"], "expected one argument"),
        (["--limit", "0"], "whole number"),
        (["--two-pools", "0"], "above 0"),
    ],
)
def test_bad_values_are_usage_errors(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", "lmsys", *arguments])
    assert ended.value.code == 2
    assert named in capsys.readouterr().err
