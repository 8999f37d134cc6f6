"""Numbers of a run, and several runs side by side."""

from collections.abc import Mapping, Sequence
from math import ceil
from statistics import fmean
from typing import NamedTuple

from rich.table import Table

from sglang_marconi.replay.records import Record


class Summary(NamedTuple):
    """Totals of one run; times are in seconds."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    token_hit_rate: float
    """Cached tokens over prompt tokens of all requests, from 0 to 1."""
    mean_ttft: float
    p95_ttft: float
    wall: float
    """From sending the first request to the end of the last reply."""


def summarize(records: Sequence[Record]) -> Summary:
    """Summary of a run. Raises `ValueError` if there are no records."""
    if not records:
        raise ValueError("a run without records has no summary")
    prompt_tokens = sum(record.prompt_tokens for record in records)
    cached_tokens = sum(record.cached_tokens for record in records)
    ttfts = sorted(record.ttft for record in records)
    return Summary(
        requests=len(records),
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        token_hit_rate=cached_tokens / prompt_tokens,
        mean_ttft=fmean(ttfts),
        p95_ttft=ttfts[ceil(0.95 * len(ttfts)) - 1],
        wall=max(record.sent + record.total for record in records)
        - min(record.sent for record in records),
    )


def comparison(runs: Mapping[str, Sequence[Record]]) -> Table:
    """A table with one row a run, in the order given."""
    table = Table("cache")
    for heading in ("token hit rate", "mean TTFT", "P95 TTFT", "requests", "wall time"):
        table.add_column(heading, justify="right")
    for name, records in runs.items():
        summary = summarize(records)
        table.add_row(
            name,
            f"{summary.token_hit_rate:.1%}",
            f"{summary.mean_ttft * 1000:.0f} ms",
            f"{summary.p95_ttft * 1000:.0f} ms",
            str(summary.requests),
            f"{summary.wall:.1f} s",
        )
    return table
