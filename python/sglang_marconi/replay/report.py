"""Several runs side by side, in a terminal."""

from collections.abc import Sequence

from rich.table import Table

from sglang_marconi.replay.results import RunRecord


def comparison(runs: Sequence[RunRecord]) -> Table:
    """A table with one row a run, in the order given."""
    table = Table("cache")
    for heading in ("token hit rate", "median TTFT", "P95 TTFT", "requests", "wall time"):
        table.add_column(heading, justify="right")
    for run in runs:
        table.add_row(
            run.policy,
            f"{run.token_hit_rate:.1%}",
            _milliseconds(run.ttft_p50),
            _milliseconds(run.ttft_p95),
            str(run.requests),
            f"{run.seconds:.1f} s",
        )
    return table


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.0f} ms"
