"""The runs of one trial after another along an axis: the paper's microbenchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sglang_marconi import units
from sglang_marconi.records import RunRecord

from evaluation.paper import claims
from evaluation.paper.claims import Claim, Series
from evaluation.paper.gains import Trial, Trials
from evaluation.paper.naming import Model, TraceName
from evaluation.paper.workloads import BASE

_GB = 1e9


class Axis(NamedTuple):
    """A microbenchmark: what is varied, and the paper's figure of it.

    ``place`` is where on the axis a trial stands, nowhere if it is no part of the benchmark,
    and ``text`` how that is written; ``fixed`` is what trials along the axis have in common.
    """

    title: str
    label: str
    place: Callable[[Trial], float | None]
    fixed: Callable[[Trial], tuple[object, ...]]
    text: Callable[[float], str]
    paper: Series
    claims: Sequence[Claim] = ()


class Sweep(NamedTuple):
    """Trials along an axis, by the text of their place; ``setting``: what they share."""

    axis: Axis
    cells: Mapping[str, Mapping[str, RunRecord]]
    setting: str


def sweep(axis: Axis, cells: Trials) -> Sweep | None:
    """The best row of trials along an axis; ``None`` where none has two of them.

    Best is one of SWE-bench, as in the paper; then the longest, then the largest budget.
    """
    rows: dict[tuple[object, ...], dict[float, Trial]] = {}
    for cell in cells:
        place = axis.place(cell)
        if place is not None:
            rows.setdefault(axis.fixed(cell), {})[place] = cell
    long = [found for found in rows.values() if len(found) > 1]
    if not long:
        return None
    row = max(long, key=_preference)
    ordered = {axis.text(place): cells[row[place]] for place in sorted(row)}
    return Sweep(axis, ordered, _setting([row[place] for place in sorted(row)]))


def _preference(row: Mapping[float, Trial]) -> tuple[bool, int, int]:
    cells = row.values()
    swebench = any(cell.workload == "swebench" for cell in cells)
    return swebench, len(row), max(cell.budget_bytes for cell in cells)


def _setting(row: Sequence[Trial]) -> str:
    parts = [next(iter(row)).workload]
    traces = {TraceName.parse(cell.trace) for cell in row}
    if len(rates := {trace.rate for trace in traces}) == 1 and (rate := rates.pop()):
        parts.append(f"{rate:g} sessions/s")
    if len(gaps := {trace.gap for trace in traces}) == 1 and (gap := gaps.pop()):
        parts.append(f"{gap:g} s between turns")
    if len(sizes := {cell.budget_bytes for cell in row}) == 1:
        parts.append(units.byte_size(sizes.pop()))
    return ", ".join(parts)


def _layers(cell: Trial) -> tuple[int, int]:
    model = Model.parse(cell.model)
    return model.attention, model.ssm


def _mix_place(cell: Trial) -> float | None:
    attention, ssm = _layers(cell)
    if (attention, ssm) == (BASE.attention, BASE.ssm):
        return None
    return ssm / attention


def _state_place(cell: Trial) -> float | None:
    if _layers(cell) != (BASE.attention, BASE.ssm):
        return None
    return Model.parse(cell.model).state_dim


def _base(cell: Trial, place: float | None) -> float | None:
    return place if Model.parse(cell.model) == BASE else None


def _rate(cell: Trial) -> float | None:
    return TraceName.parse(cell.trace).rate


def _gap(cell: Trial) -> float | None:
    return TraceName.parse(cell.trace).gap


MIX = Axis(
    "Share of SSM layers",
    "attention : SSM layers",
    _mix_place,
    lambda cell: (cell.trace, cell.budget_bytes),
    lambda share: f"1:{share:g}",
    claims.MIX,
    claims.MIX_CLAIMS,
)
STATE_DIM = Axis(
    "SSM state dimension",
    "state dimension",
    _state_place,
    lambda cell: (cell.trace, cell.budget_bytes),
    lambda dimension: f"{dimension:g}",
    claims.STATE_DIM,
    claims.STATE_DIM_CLAIMS,
)
CONTENTION = Axis(
    "Contention: cache size",
    "cache size in GB",
    lambda cell: _base(cell, cell.budget_bytes / _GB),
    lambda cell: (cell.trace,),
    lambda size: f"{size:g}",
    claims.CONTENTION,
    claims.CONTENTION_CLAIMS,
)
RATE = Axis(
    "Arrival rate",
    "sessions per second",
    lambda cell: _base(cell, _rate(cell)),
    lambda cell: (cell.workload, _gap(cell), cell.budget_bytes),
    lambda rate: f"{rate:g}",
    claims.RATE,
)
GAP = Axis(
    "Gap between turns",
    "mean seconds between turns",
    lambda cell: _base(cell, _gap(cell)),
    lambda cell: (cell.workload, _rate(cell), cell.budget_bytes),
    lambda gap: f"{gap:g}",
    claims.GAP,
)
AXES = (MIX, STATE_DIM, CONTENTION, RATE, GAP)
