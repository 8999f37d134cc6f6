"""What the store's kernels should reach of a plain copy's speed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

EXACT, ENCODED = 0.9, 0.8
"""Of a copy's bytes a second, for states stored and loaded as they are, and encoded."""
FROM_STATES = 8
"""With fewer states at once a launch costs more than what it moves."""


class Goal(NamedTuple):
    """An operation, the share of a copy's speed that it has, and the share it should have."""

    model: str
    states: int
    operation: str
    share: float
    wanted: float

    @property
    def met(self) -> bool:
        """Whether it is as fast as it should be."""
        return self.share >= self.wanted


def judge(timings: Iterable[Mapping[str, Any]]) -> list[Goal]:
    """Every store and load of enough states, beside the copy of as many in the same run.

    A timing has `model`, `states`, `operation`, `moved` bytes and `microseconds`.
    """
    rows = list(timings)
    copies = {(row["model"], row["states"]): row for row in rows if row["operation"] == "copy"}
    return [
        Goal(
            row["model"],
            row["states"],
            row["operation"],
            _speed(row) / _speed(copies[row["model"], row["states"]]),
            EXACT if row["operation"].endswith(" EXACT") else ENCODED,
        )
        for row in rows
        if row["states"] >= FROM_STATES and row["operation"].split()[0] in {"store", "load"}
    ]


def describe(goals: Sequence[Goal]) -> list[str]:
    """How many are met, and which are not."""
    if not goals:
        return [f"No goal is set for fewer than {FROM_STATES} states."]
    met = sum(goal.met for goal in goals)
    return [
        f"Goals ({EXACT:.0%} of a copy exact, {ENCODED:.0%} encoded): {met} of {len(goals)} met.",
        *(
            f"- missed: {goal.model}, {goal.states} states, {goal.operation}: "
            f"{goal.share:.0%} of {goal.wanted:.0%}"
            for goal in goals
            if not goal.met
        ),
    ]


def _speed(row: Mapping[str, Any]) -> float:
    return float(row["moved"] / row["microseconds"])
