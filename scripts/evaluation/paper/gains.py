"""Runs of the evaluation compared with each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from sglang_marconi.records import RunRecord
from sglang_marconi.simulate.policies import UNLIMITED

from evaluation.paper.naming import Model, TraceName
from evaluation.paper.plan import BASELINES, OURS
from evaluation.paper.workloads import BASE


class Trial(NamedTuple):
    """What runs of different policies have in common: a cell of the grid."""

    trace: str
    model: str
    budget_bytes: int

    @property
    def workload(self) -> str:
        return TraceName.parse(self.trace).workload


Trials = Mapping[Trial, Mapping[str, RunRecord]]


class Spread(NamedTuple):
    """Values over a grid, in rising order, at least one."""

    values: Sequence[float]

    @property
    def least(self) -> float:
        return self.values[0]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def best(self) -> float:
        return self.values[-1]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


def trials(runs: Iterable[RunRecord]) -> Trials:
    """The cells in which all policies were run, in the order of the runs."""
    cells: dict[Trial, dict[str, RunRecord]] = {}
    for run in runs:
        if run.budget_bytes:
            cell = Trial(run.trace, run.model, run.budget_bytes)
            cells.setdefault(cell, {})[run.policy] = run
    wanted = {*BASELINES, *OURS}
    return {cell: found for cell, found in cells.items() if wanted <= found.keys()}


def of_base_model(cells: Trials) -> Trials:
    return {cell: found for cell, found in cells.items() if Model.parse(cell.model) == BASE}


def by_workload(cells: Trials) -> Mapping[str, Trials]:
    groups: dict[str, dict[Trial, Mapping[str, RunRecord]]] = {}
    for cell, found in cells.items():
        groups.setdefault(cell.workload, {})[cell] = found
    return groups


def ratios(cells: Trials, policy: str, baseline: str) -> Spread | None:
    """Token hit rate of ``policy`` over that of ``baseline``, where the baseline has hits."""
    return _spread(
        found[policy].token_hit_rate / found[baseline].token_hit_rate
        for found in cells.values()
        if found[baseline].hit_tokens
    )


def without_hits(cells: Trials, baseline: str) -> int:
    """In how many cells the baseline has no hits, so that there is no ratio."""
    return sum(not found[baseline].hit_tokens for found in cells.values())


def ttft_cuts(
    cells: Trials, uncached: Mapping[str, RunRecord], policy: str, baseline: str, field: str
) -> Spread | None:
    """How much lower a percentile of time to first token is, as a share of that without a cache.

    This is how the paper's artifact (plotting/ttft.py) compares. ``field`` is `RunRecord`'s.
    """
    return _spread(
        (getattr(found[baseline], field) - getattr(found[policy], field))
        / getattr(uncached[cell.trace], field)
        for cell, found in cells.items()
        if cell.trace in uncached
    )


def without_cache(runs: Iterable[RunRecord]) -> Mapping[str, RunRecord]:
    """The run of each trace with a cache of no bytes."""
    return {run.trace: run for run in runs if run.budget_bytes == 0}


def without_bound(runs: Iterable[RunRecord]) -> Mapping[str, RunRecord]:
    """The run of each trace with a cache that evicts nothing."""
    return {run.trace: run for run in runs if run.policy == UNLIMITED}


def _spread(values: Iterable[float]) -> Spread | None:
    ordered = sorted(values)
    return Spread(ordered) if ordered else None
