"""Records sorted by what they are about: a trace on a model, a budget, a policy."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from sglang_marconi.records import RequestRecord, RunRecord

Rec = TypeVar("Rec", RunRecord, RequestRecord)

# Panels in one figure, and so budgets in one.
MOST_BUDGETS = 4


class Setting(NamedTuple):
    """What runs must have in common to be compared."""

    trace: str
    model: str

    def __str__(self) -> str:
        return f"{self.trace} on {self.model}"


class RunKey(NamedTuple):
    """What tells a run from all others."""

    trace: str
    model: str
    budget_bytes: int | None
    policy: str


def run_of(record: RunRecord | RequestRecord) -> RunKey:
    return RunKey(record.trace, record.model, record.budget_bytes, record.policy)


def setting_of(record: RunRecord | RequestRecord) -> Setting:
    return Setting(record.trace, record.model)


def by_setting(records: Iterable[Rec]) -> Mapping[Setting, Sequence[Rec]]:
    """In the order of names."""
    groups: dict[Setting, list[Rec]] = {}
    for record in records:
        groups.setdefault(setting_of(record), []).append(record)
    return dict(sorted(groups.items()))


def by_budget(records: Iterable[Rec]) -> Mapping[int | None, Sequence[Rec]]:
    """From the smallest to the largest, no budget last."""
    groups: dict[int | None, list[Rec]] = {}
    for record in records:
        groups.setdefault(record.budget_bytes, []).append(record)
    return {budget: groups[budget] for budget in ordered_budgets(groups)}


def by_policy(records: Iterable[Rec], order: Iterable[str]) -> Mapping[str, Sequence[Rec]]:
    """In the order given, which names each policy."""
    groups: dict[str, list[Rec]] = {}
    for record in records:
        groups.setdefault(record.policy, []).append(record)
    return {policy: groups[policy] for policy in order if policy in groups}


def ordered_budgets(budgets: Iterable[int | None]) -> Sequence[int | None]:
    """Each once, from the smallest to the largest, no budget last."""
    return sorted(set(budgets), key=lambda budget: (budget is None, budget))


def panel_budgets(budgets: Iterable[int | None]) -> Sequence[int | None]:
    """At most ``MOST_BUDGETS``, spread from the smallest to the largest.

    No budget has a panel only where there is nothing else.
    """
    bounded = [budget for budget in ordered_budgets(budgets) if budget is not None]
    if not bounded:
        return [None]
    size = min(len(bounded), MOST_BUDGETS)
    last = len(bounded) - 1
    return [bounded[round(place * last / max(size - 1, 1))] for place in range(size)]
