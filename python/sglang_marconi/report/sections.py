"""The plots of the report, and for each that cannot be drawn the reason."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.figure import Figure

from sglang_marconi import units
from sglang_marconi.records import RequestRecord, RunRecord
from sglang_marconi.report.groups import (
    Setting,
    by_budget,
    by_setting,
    ordered_budgets,
    panel_budgets,
)
from sglang_marconi.report.hit_rate import hit_rate_by_budget, hit_rate_over_time
from sglang_marconi.report.latency import LATENCIES, Latency, latency_distribution
from sglang_marconi.report.looks import Looks
from sglang_marconi.report.memory import memory_over_time
from sglang_marconi.report.saved_flops import saved_flops

_DASHED = "Dashed lines are runs without a budget."
_NO_REQUESTS = "there are no records of requests."


class Plot(NamedTuple):
    """A figure to be drawn, what to say below it, and the trace and model it is about.

    ``subject`` is empty where the plot shows all of them.
    """

    subject: str
    caption: str
    draw: Callable[[], Figure]


class Section(NamedTuple):
    """Plots of one kind, and why some or all of them are left out."""

    name: str
    title: str
    text: str
    plots: Sequence[Plot]
    left_out: Sequence[str]


def sections(
    runs: Sequence[RunRecord], requests: Sequence[RequestRecord], looks: Looks
) -> Iterator[Section]:
    """All kinds of plots, in the order of the report."""
    drawn = Plot("", _dashed(runs), partial(hit_rate_by_budget, runs, looks))
    yield Section(
        "hit-rate-by-budget", "Token hit rate by budget", "A line for each policy.", [drawn], []
    )

    known = by_setting(requests)
    groups = {setting: known.get(setting, ()) for setting in by_setting(runs)}
    yield _section(
        "hit-rate-over-time",
        "Token hit rate over time",
        "Hit tokens over prompt tokens of all requests up to each time.",
        {setting: _over_time(setting, group, looks) for setting, group in groups.items()},
    )
    yield _section(
        "memory-over-time",
        "Memory over time",
        "What the cache holds: states, and KV on top of them.",
        {setting: _memory(setting, group, looks) for setting, group in groups.items()},
    )

    saved = any(run.flops_saved > 0 for run in runs)
    yield Section(
        "saved-flops",
        "Saved FLOPs",
        "A bar for each policy at each budget.",
        [Plot("", "", partial(saved_flops, runs, looks))] if saved else [],
        [] if saved else ["no run saved any FLOPs."],
    )

    for latency, title in LATENCIES.items():
        yield _section(
            latency,
            title.capitalize(),
            "The share of requests that took no longer than each time: further left is faster.",
            {
                setting: _latency(setting, group, looks, latency)
                for setting, group in groups.items()
            },
        )


def _section(name: str, title: str, text: str, found: Mapping[Setting, Plot | str]) -> Section:
    """Puts settings with the same reason to have no plot into one sentence."""
    reasons: dict[str, list[str]] = {}
    for setting, reason in found.items():
        if isinstance(reason, str):
            reasons.setdefault(reason, []).append(str(setting))
    left_out = [
        reason if len(settings) == len(found) else f"{', '.join(settings)}: {reason}"
        for reason, settings in reasons.items()
    ]
    plots = [plot for plot in found.values() if isinstance(plot, Plot)]
    return Section(name, title, text, plots, left_out)


def _over_time(setting: Setting, requests: Sequence[RequestRecord], looks: Looks) -> Plot | str:
    if not requests:
        return _NO_REQUESTS
    if _at_once(requests):
        return "all requests arrive at the same time."
    caption = _panel_caption(requests)
    return Plot(str(setting), caption, partial(hit_rate_over_time, requests, looks))


def _memory(setting: Setting, requests: Sequence[RequestRecord], looks: Looks) -> Plot | str:
    if not requests:
        return _NO_REQUESTS
    measured = by_budget(
        record
        for record in requests
        if record.state_bytes is not None and record.kv_bytes is not None
    )
    if not measured:
        return "the bytes of states and KV were not measured."
    bounded = [budget for budget in measured if budget is not None]
    budget = bounded[(len(bounded) - 1) // 2] if bounded else None
    if _at_once(measured[budget]):
        return "all requests arrive at the same time."
    others = [other for other in measured if other != budget]
    caption = " ".join([f"At {units.budget_size(budget)}.", *_not_shown(others)])
    return Plot(str(setting), caption, partial(memory_over_time, measured[budget], looks))


def _latency(
    setting: Setting, requests: Sequence[RequestRecord], looks: Looks, latency: Latency
) -> Plot | str:
    if not requests:
        return _NO_REQUESTS
    measured = [record for record in requests if getattr(record, latency) is not None]
    if not measured:
        return "it was not measured."
    if not any(getattr(record, latency) for record in measured):
        return "it is zero for all requests."
    caption = _panel_caption(measured)
    return Plot(str(setting), caption, partial(latency_distribution, measured, looks, latency))


def _at_once(requests: Sequence[RequestRecord]) -> bool:
    return len({record.arrival for record in requests}) == 1


def _panel_caption(requests: Sequence[RequestRecord]) -> str:
    """Which budgets have no panel, and what dashed lines are."""
    budgets = ordered_budgets(record.budget_bytes for record in requests)
    shown = panel_budgets(budgets)
    others = [budget for budget in budgets if budget is not None and budget not in shown]
    sentences = _not_shown(others)
    if None in budgets and None not in shown:
        sentences.append(_DASHED)
    return " ".join(sentences)


def _dashed(runs: Iterable[RunRecord]) -> str:
    return _DASHED if any(run.budget_bytes is None for run in runs) else ""


def _not_shown(budgets: Sequence[int | None]) -> list[str]:
    names = ", ".join(map(units.budget_size, budgets))
    return [f"Not shown: {names}."] if budgets else []
