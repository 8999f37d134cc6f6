"""The tables of the evaluation, as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sglang_marconi import units
from sglang_marconi.records import RunRecord
from sglang_marconi.report.tables import Table

from evaluation.paper.gains import (
    Spread,
    Trials,
    by_workload,
    ratios,
    ttft_cuts,
    without_bound,
    without_cache,
    without_hits,
)
from evaluation.paper.plan import BASELINES, OURS, POLICIES
from evaluation.paper.sweeps import Sweep


def times(ratio: float) -> str:
    return f"{float(f'{ratio:.3g}'):g}×"


def more(ratio: float) -> str:
    """A ratio as a gain in percent."""
    return f"{ratio - 1:+.1%}".replace("%", "\N{NO-BREAK SPACE}%")


def lower(cut: float) -> str:
    """A share by which something went down; what went up is negative."""
    return units.percent(cut)


def pressure(runs: Sequence[RunRecord], cells: Trials) -> Table:
    """What was replayed, and how small the caches are beside what the traces would fill."""
    bounds = without_bound(runs)
    rows = []
    for workload, of_workload in by_workload(cells).items():
        traces = dict.fromkeys(cell.trace for cell in of_workload)
        known = [bounds[trace] for trace in traces if trace in bounds]
        sizes = sorted({cell.budget_bytes for cell in of_workload})
        filled = [run.peak_bytes or 0 for run in known]
        rates = [run.token_hit_rate for run in known]
        reached = [found["auto"].token_hit_rate for found in of_workload.values()]
        requests = [next(iter(found.values())) for found in of_workload.values()]
        rows.append(
            [
                workload,
                units.count(len(traces)),
                units.count(sum({run.trace: run.requests for run in requests}.values())),
                units.count(len(of_workload)),
                f"{units.byte_size(sizes[0])} to {units.byte_size(sizes[-1])}",
                units.byte_size(max(filled)) if filled else units.MISSING,
                units.percent(max(rates)) if rates else units.MISSING,
                f"{units.percent(min(reached))} to {units.percent(max(reached))}",
                units.count(_without_eviction(of_workload)),
            ]
        )
    head = [
        "Workload",
        "Traces",
        "Requests in them",
        "Trials",
        "Cache sizes",
        "An unbounded cache fills",
        "and hits",
        "auto hits",
        "Runs without eviction",
    ]
    return Table(head, [("Base model", rows)])


def hit_rates(cells: Trials) -> Table:
    """Gains in token hit rate by workload, over the grid."""
    groups = []
    for workload, of_workload in by_workload(cells).items():
        rows = []
        for policy in OURS:
            over_vllm = ratios(of_workload, policy, "vllm+")
            over_sglang = ratios(of_workload, policy, "sglang+")
            rows.append(
                [
                    policy,
                    units.count(len(of_workload)),
                    *_summary(over_vllm, times),
                    *_summary(over_sglang, more),
                    units.count(without_hits(of_workload, "vllm+")),
                ]
            )
        groups.append((workload, rows))
    head = ["Policy", "Trials"]
    for baseline in BASELINES:
        head += [f"{what} over {baseline}" for what in ("Least", "Median", "Mean", "Best")]
    return Table([*head, "Trials without hits of vllm+"], groups)


def times_to_first_token(runs: Sequence[RunRecord], cells: Trials) -> Table:
    """How much lower P50 and P95 are by workload, over the grid."""
    uncached = without_cache(runs)
    groups = []
    for workload, of_workload in by_workload(cells).items():
        rows = []
        for policy in OURS:
            for field, name in (("ttft_p50", "P50"), ("ttft_p95", "P95")):
                cuts = (
                    ttft_cuts(of_workload, uncached, policy, baseline, field)
                    for baseline in BASELINES
                )
                summaries = (cell for cut in cuts for cell in _summary(cut, lower))
                rows.append([policy, name, *summaries])
        groups.append((workload, rows))
    head = ["Policy", "Percentile"]
    for baseline in BASELINES:
        head += [f"{what}, below {baseline}" for what in ("Least", "Median", "Mean", "Best")]
    return Table(head, groups)


def beside(sweep: Sweep) -> Table:
    """A microbenchmark: the paper's token hit rates and gains, and below them ours."""
    paper = sweep.axis.paper
    theirs = [
        _row(point, {policy: rates[place] for policy, rates in paper.rates.items()})
        for place, point in enumerate(paper.points)
    ]
    ours = [
        _row(point, {policy: found[policy].token_hit_rate for policy in POLICIES})
        for point, found in sweep.cells.items()
    ]
    label = sweep.axis.label
    head = [label[0].upper() + label[1:], *POLICIES]
    head += [f"{policy} over {baseline}" for policy in OURS for baseline in BASELINES]
    return Table(head, [("The paper", theirs), (f"Here: {sweep.setting}", ours)])


def _without_eviction(cells: Trials) -> int:
    return sum(run.evictions == 0 for found in cells.values() for run in found.values())


def _row(point: str, rates: Mapping[str, float]) -> list[str]:
    shown = [
        units.percent(rates[policy]) if policy in rates else units.MISSING for policy in POLICIES
    ]
    for policy in OURS:
        for baseline, text in zip(BASELINES, (times, more), strict=True):
            both = policy in rates and rates.get(baseline)
            shown.append(text(rates[policy] / rates[baseline]) if both else units.MISSING)
    return [point, *shown]


def _summary(spread: Spread | None, text: Callable[[float], str]) -> list[str]:
    if spread is None:
        return [units.MISSING] * 4
    return [text(value) for value in (spread.least, spread.median, spread.mean, spread.best)]
