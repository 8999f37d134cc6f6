from pathlib import Path

import pytest
from rich.console import Console
from sglang_marconi.replay.plots import plot_hit_rate
from sglang_marconi.replay.records import Record
from sglang_marconi.replay.report import comparison, summarize


def record(number: int, *, cached: int = 0, ttft: float = 0.1) -> Record:
    return Record("s", number, 100, cached, 8, sent=10.0 + number, ttft=ttft, total=2.5)


def test_summary() -> None:
    records = [record(0), record(1, cached=50, ttft=0.2), record(2, cached=100, ttft=0.6)]
    summary = summarize(records)
    assert summary[:3] == (3, 300, 150)
    assert summary.token_hit_rate == 0.5
    assert summary.mean_ttft == pytest.approx(0.3)
    assert summary.p95_ttft == 0.6
    assert summary.wall == pytest.approx(4.5)


def test_p95_is_the_smallest_that_95_in_100_do_not_exceed() -> None:
    records = [record(number, ttft=number + 1) for number in range(100)]
    assert summarize(records).p95_ttft == 95
    assert summarize(records[:1]).p95_ttft == 1


def test_no_records_is_an_error() -> None:
    with pytest.raises(ValueError, match="without records"):
        summarize([])


def test_table_has_a_row_for_each_run() -> None:
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        console.print(comparison({"first": [record(0)], "second": [record(0, cached=25)]}))
    rows = [line for line in capture.get().splitlines() if "ms" in line]
    assert len(rows) == 2
    assert all(text in rows[1] for text in ("second", "25.0%", "100 ms", "1", "2.5 s"))


def test_plot_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "new" / "plot.png"
    plot_hit_rate({"a": [record(1, cached=10), record(0)], "b": [record(0)]}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
