"""Step: the speed of the store's kernels, with its goals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from bench_pool import CPU_STATES, Timing, measure
from rich.console import Console

from gpu import goals
from gpu.findings import leave

MODELS = ("nemotron-h-8b", "qwen3-next-80b-a3b")
STATES = (8, 64)
_REPEATS, _REPEATS_ON_CPU = 20, 5


def main() -> None:
    """Measure one model after another and leave what is known."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    repeats = _REPEATS if device.type == "cuda" else _REPEATS_ON_CPU
    models, states = (MODELS, STATES) if device.type == "cuda" else (MODELS[1:], (CPU_STATES,))
    timings: list[Timing] = []
    for timing in measure(models, states, device, repeats, Console(width=100)):
        timings.append(timing)
        rows = [timing._asdict() for timing in timings]
        judged = goals.judge(rows)
        lines = [*goals.describe(judged), "", *table_of(timings)]
        leave(lines, {"timings": rows, "goals": [goal._asdict() for goal in judged]})


def table_of(timings: Sequence[Timing]) -> list[str]:
    """One row an operation: microseconds, and GB/s as a share of the copy's."""
    copies = {(row.model, row.states): row for row in timings if row.operation == "copy"}
    rows = ["| model | states | operation | µs | GB/s | of copy |", "|---|--:|---|--:|--:|--:|"]
    for row in timings:
        place = f"| {row.model} | {row.states} | {row.operation} |"
        if row.note:
            rows.append(f"{place} {row.note} | | |")
            continue
        share = row.gigabytes_per_second / copies[row.model, row.states].gigabytes_per_second
        speed = row.gigabytes_per_second
        rows.append(f"{place} {row.microseconds:,.1f} | {speed:,.1f} | {share:.0%} |")
    return rows


if __name__ == "__main__":
    main()
