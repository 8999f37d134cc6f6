"""Runs the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress
from sglang_marconi.cost.latency import LatencyProfile
from sglang_marconi.records import write_records
from sglang_marconi.simulate.batch import run_batch
from sglang_marconi.traces.sources import Trace

from evaluation.paper.page import draw_paper
from evaluation.paper.plan import jobs
from evaluation.paper.workloads import FULL, QUICK, generated


def run_paper(
    out: Path,
    *,
    quick: bool,
    workers: int,
    progress: Progress,
    traces: Sequence[Trace] | None = None,
    latency: LatencyProfile | None = None,
) -> Path:
    """Replay the grid, write ``runs.jsonl`` and the page into ``out``; returns the page.

    ``traces`` take the place of the generated workloads. One that is named as the artifact's
    files are, such as ``lmsys_sps=1_nums=100``, is replayed at its workload's cache sizes, any
    other at all sizes of the grid. Without ``latency`` times follow from `assumed_latency`.
    """
    grid = QUICK if quick else FULL
    replayed = {trace.name: trace.requests for trace in traces or generated(grid)}
    planned = jobs(grid, list(replayed), latency)
    runs = [run.run for run in run_batch(planned, replayed, workers=workers, progress=progress)]
    out.mkdir(parents=True, exist_ok=True)
    write_records(out / "runs.jsonl", runs)
    return draw_paper(out)
