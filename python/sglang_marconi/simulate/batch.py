"""Many simulated runs over the same traces, in parallel processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sglang_marconi import units
from sglang_marconi.simulate.run import Run, Setup, simulate
from sglang_marconi.traces.requests import TraceRequest


class Job(NamedTuple):
    """A run; ``requests`` says over which of the batch's traces."""

    setup: Setup
    requests: str


# What the worker processes of a batch inherit: forked, so that no trace is copied.
_traces: Mapping[str, Sequence[TraceRequest]] = {}


def run_batch(
    jobs: Sequence[Job],
    traces: Mapping[str, Sequence[TraceRequest]],
    *,
    workers: int,
    progress: Progress,
) -> Iterator[Run]:
    """The runs of all jobs, in the order of the jobs; requests served are shown as progress."""
    total = sum(len(traces[job.requests]) for job in jobs)
    task = progress.add_task("replaying", total=total)
    if workers == 1 or len(jobs) == 1:
        for job in jobs:
            progress.update(task, description=_describe(job))
            yield simulate(job.setup, traces[job.requests], lambda: progress.advance(task))
        return
    global _traces  # noqa: PLW0603
    _traces = traces
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
            futures = [pool.submit(_run, job) for job in jobs]
            served = {
                future: len(traces[job.requests]) for future, job in zip(futures, jobs, strict=True)
            }
            for future in as_completed(futures):
                progress.advance(task, served[future])
            yield from (future.result() for future in futures)
    finally:
        _traces = {}


def progress_bar() -> Progress:
    """Requests done of all; shows nothing where standard error is not a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)


def _run(job: Job) -> Run:
    return simulate(job.setup, _traces[job.requests])


def _describe(job: Job) -> str:
    size = units.byte_size(job.setup.budget.total_bytes)
    return f"{job.setup.trace}, {job.setup.policy}, {size}"
