"""Reading records from a folder."""

from pathlib import Path

import msgspec
import pytest
from sglang_marconi.report.folder import read_replay
from support.run_records import fill, request, run


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
