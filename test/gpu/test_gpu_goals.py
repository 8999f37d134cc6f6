"""The goals' arithmetic."""

from __future__ import annotations

from typing import Any

from gpu.goals import describe, judge


def timing(operation: str, microseconds: float, moved: int, states: int = 8) -> dict[str, Any]:
    return {
        "model": "m",
        "states": states,
        "operation": operation,
        "microseconds": microseconds,
        "moved": moved,
        "note": "",
    }


def test_a_share_is_of_the_copys_bytes_a_second() -> None:
    goals = judge(
        [
            timing("copy", 100, 1000),
            # As many bytes in 111 % of the time, and in 112: 0.9 lies between.
            timing("store EXACT", 111, 1000),
            timing("load EXACT", 112, 1000),
            # Half the bytes in half the time is a copy's speed; in 62 % of it, four fifths.
            timing("store INT8", 62, 500),
            timing("load INT8", 63, 500),
            timing("torch index_select", 500, 1000),
            timing("SGLang int8 store", 500, 1000),
        ]
    )
    assert [(goal.operation, goal.met) for goal in goals] == [
        ("store EXACT", True),
        ("load EXACT", False),
        ("store INT8", True),
        ("load INT8", False),
    ]
    assert [goal.wanted for goal in goals] == [0.9, 0.9, 0.8, 0.8]
    assert describe(goals)[0].endswith("2 of 4 met.")
    assert describe(goals)[1:] == [
        "- missed: m, 8 states, load EXACT: 89% of 90%",
        "- missed: m, 8 states, load INT8: 79% of 80%",
    ]


def test_each_number_of_states_has_its_own_copy_and_few_have_no_goal() -> None:
    rows = [
        timing("copy", 10, 100, states=1),
        timing("store EXACT", 100, 100, states=1),
        timing("copy", 100, 1000),
        timing("store EXACT", 100, 1000),
        timing("copy", 100, 2000, states=64),
        timing("store EXACT", 100, 1000, states=64),
    ]
    assert [(goal.states, goal.share, goal.met) for goal in judge(rows)] == [
        (8, 1.0, True),
        (64, 0.5, False),
    ]
    assert describe(judge(rows[:2])) == ["No goal is set for fewer than 8 states."]
