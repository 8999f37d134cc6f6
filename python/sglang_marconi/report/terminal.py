"""Runs as a table on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from sglang_marconi import units
from sglang_marconi.records import RunRecord


def runs_table(runs: Sequence[RunRecord]) -> Table:
    """A row a run, in the order given."""
    table = Table("trace", "model", "policy")
    for heading in ("budget", "requests", "token hit rate"):
        table.add_column(heading, justify="right")
    for heading in ("FLOPs saved", "peak", "evictions", "seconds"):
        table.add_column(heading, justify="right")
    for run in runs:
        table.add_row(
            run.trace,
            run.model,
            run.policy,
            _bytes(run.budget_bytes),
            f"{run.requests:,}",
            f"{run.token_hit_rate:.1%}",
            f"{run.flops_saved:.3g}",
            _bytes(run.peak_bytes),
            "" if run.evictions is None else f"{run.evictions:,}",
            f"{run.seconds:.1f}",
        )
    return table


def _bytes(count: int | None) -> str:
    return "" if count is None else units.byte_size(count)


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
