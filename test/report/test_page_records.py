"""Records for the tests of the page, and reading them from a folder."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sglang_marconi.records import RequestRecord, RunRecord, write_records
from sglang_marconi.report.folder import read_replay

GB = 10**9


def run(policy: str = "lru", budget: int | None = 5 * GB, **fields: Any) -> RunRecord:
    values = {
        "trace": "chat",
        "model": "hybrid",
        "requests": 3,
        "prompt_tokens": 1000,
        "hit_tokens": 400,
        "token_hit_rate": 0.4,
        "flops_saved": 2e15,
        "peak_bytes": 4 * GB,
        "evictions": 7,
        "seconds": 1.5,
    }
    return RunRecord(policy=policy, budget_bytes=budget, **(values | fields))


def request(
    policy: str = "lru", budget: int | None = 5 * GB, arrival: float = 0.0, **fields: Any
) -> RequestRecord:
    values = {
        "trace": "chat",
        "model": "hybrid",
        "session_id": "s",
        "turn": 0,
        "prompt_tokens": 100,
        "hit_tokens": 0,
    }
    return RequestRecord(policy=policy, budget_bytes=budget, arrival=arrival, **(values | fields))


def fill(folder: Path, runs: list[RunRecord], requests: list[RequestRecord] | None = None) -> Path:
    write_records(folder / "runs.jsonl", runs)
    if requests is not None:
        write_records(folder / "requests.jsonl", requests)
    return folder


def test_reads_both_files(tmp_path: Path) -> None:
    runs, requests = [run(), run("marconi")], [request(), request("marconi", arrival=2.0)]
    replay = read_replay(fill(tmp_path, runs, requests))
    assert (replay.runs, replay.requests, replay.notes) == (runs, requests, [])


def test_a_folder_without_requests_says_so(tmp_path: Path) -> None:
    replay = read_replay(fill(tmp_path, [run()]))
    assert not replay.requests
    assert len(replay.notes) == 1
    assert "no requests.jsonl" in replay.notes[0]


def test_requests_of_other_runs_are_left_out_and_counted(tmp_path: Path) -> None:
    requests = [request(), request("marconi"), request(budget=None), request(model="other")]
    replay = read_replay(fill(tmp_path, [run()], requests))
    assert replay.requests == requests[:1]
    assert len(replay.notes) == 1
    assert replay.notes[0].startswith("3 of 4 requests")


def test_runs_without_requests_are_named(tmp_path: Path) -> None:
    replay = read_replay(fill(tmp_path, [run(), run("auto"), run("lru", None)], [request()]))
    assert len(replay.notes) == 1
    assert "auto (5\N{NO-BREAK SPACE}GB, chat on hybrid)" in replay.notes[0]
    assert "lru (no budget, chat on hybrid)" in replay.notes[0]


def test_two_runs_that_nothing_tells_apart_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 runs of .*marconi"):
        read_replay(fill(tmp_path, [run(), run("marconi"), run("marconi", seconds=9.0)]))


def test_no_runs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_replay(tmp_path)
    with pytest.raises(ValueError, match="has no runs"):
        read_replay(fill(tmp_path, []))


def test_a_line_that_is_no_record_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, [run()])
    (tmp_path / "requests.jsonl").write_text('{"trace": "chat"}\n')
    with pytest.raises(msgspec.ValidationError):
        read_replay(tmp_path)
