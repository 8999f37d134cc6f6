"""The tables of the report, as text: all runs, their latencies, the best policy by budget."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from sglang_marconi import units
from sglang_marconi.policy.registry import BASELINE
from sglang_marconi.records import RunRecord
from sglang_marconi.report.groups import by_budget, by_policy, by_setting
from sglang_marconi.report.looks import Looks

ORACLE = "oracle"
# What no server can do is no candidate for the best policy.
BOUNDS = (ORACLE, "unlimited")

_LATENCIES = tuple(f"{latency}_p{rank}" for latency in ("ttft", "tpot") for rank in (50, 95, 99))

_Columns = Mapping[str, Callable[[RunRecord], str]]
_Number = TypeVar("_Number", int, float)


class Table(NamedTuple):
    """Rows of text below a head, in groups with a name; the first two columns are names."""

    head: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Sequence[str]]]]


def all_runs(runs: Sequence[RunRecord], looks: Looks) -> Table:
    """A row for each run."""
    columns: _Columns = {
        "Token hit rate": lambda run: units.percent(run.token_hit_rate),
        "Saved FLOPs": lambda run: units.flops(run.flops_saved),
        "Requests": lambda run: units.count(run.requests),
        "Prompt tokens": lambda run: units.count(run.prompt_tokens),
        "Hit tokens": lambda run: units.count(run.hit_tokens),
        "Peak": lambda run: _or_missing(units.byte_size, run.peak_bytes),
        "Evictions": lambda run: _or_missing(units.count, run.evictions),
        "Replay time": lambda run: units.duration(run.seconds),
    }
    return _run_table(runs, looks, columns)


def latencies(runs: Sequence[RunRecord], looks: Looks) -> Table | None:
    """A row for each run, a column for each latency that some run has; ``None`` without any."""
    columns = {
        name.upper().replace("_", " "): _latency_cell(name)
        for name in _LATENCIES
        if any(getattr(run, name) is not None for run in runs)
    }
    return _run_table(runs, looks, columns) if columns else None


def best_by_budget(runs: Sequence[RunRecord], looks: Looks) -> Table:
    """A row for each budget: the policy with the highest token hit rate, and its margin to LRU.

    Policies that tie are all named. Bounds are not candidates; the oracle has a column.
    """
    policies = {run.policy for run in runs}
    head = ["Budget", "Best policy", "Token hit rate"]
    if BASELINE in policies:
        head += [BASELINE, f"Margin to {BASELINE}"]
    if ORACLE in policies:
        head += [ORACLE]
    groups = []
    for setting, of_setting in by_setting(runs).items():
        rows = []
        for budget, of_budget in by_budget(of_setting).items():
            rates = {
                policy: run.token_hit_rate for policy, (run,) in by_policy(of_budget, looks).items()
            }
            candidates = {policy: rate for policy, rate in rates.items() if policy not in BOUNDS}
            if candidates:
                best = max(candidates.values())
                cells = {
                    "Budget": units.budget_size(budget),
                    "Best policy": ", ".join(p for p, rate in candidates.items() if rate == best),
                    "Token hit rate": units.percent(best),
                }
                if BASELINE in rates:
                    cells[BASELINE] = units.percent(rates[BASELINE])
                    cells[f"Margin to {BASELINE}"] = units.points(best - rates[BASELINE])
                if ORACLE in rates:
                    cells[ORACLE] = units.percent(rates[ORACLE])
                rows.append([cells.get(name, units.MISSING) for name in head])
        if rows:
            groups.append((str(setting), rows))
    return Table(head, groups)


def _run_table(runs: Sequence[RunRecord], looks: Looks, columns: _Columns) -> Table:
    groups = [
        (
            str(setting),
            [
                [units.budget_size(budget), policy, *(cell(run) for cell in columns.values())]
                for budget, of_budget in by_budget(of_setting).items()
                for policy, (run,) in by_policy(of_budget, looks).items()
            ],
        )
        for setting, of_setting in by_setting(runs).items()
    ]
    return Table(["Budget", "Policy", *columns], groups)


def _latency_cell(name: str) -> Callable[[RunRecord], str]:
    return lambda run: _or_missing(units.duration, getattr(run, name))


def _or_missing(text: Callable[[_Number], str], number: _Number | None) -> str:
    return units.MISSING if number is None else text(number)
