"""Token positions on their way to the scheduler."""

from __future__ import annotations

import pytest
from sglang_marconi.declare.transport import MOST_POSITIONS, carried, checked, with_positions


def test_positions_inside_the_prompt_are_taken_in_order() -> None:
    assert checked([9, 1, 5, 5], 10) == [1, 5, 9]
    assert checked([], 10) == []


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        ([0], "position 0 is not inside the prompt of 10 tokens"),
        ([3, 10], "position 10 is not inside"),
        ([-1], "position -1 is not inside"),
        ([1.0], "a list of token positions"),
        ([True], "a list of token positions"),
        (["1"], "a list of token positions"),
        (3, "a list of token positions"),
        ([[3]], "a list of token positions"),
        ({"3": 3}, "a list of token positions"),
        (list(range(1, MOST_POSITIONS + 2)), "at most 16 positions, got 17"),
    ],
)
def test_all_else_is_refused(positions: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checked(positions, 10)


def test_they_travel_beside_other_parameters() -> None:
    given = {"n": 2, "custom_params": {"thinking_budget": 3}}
    sent = with_positions(given, [5])
    assert carried(sent["custom_params"]) == [5]
    assert sent["custom_params"]["thinking_budget"] == 3
    assert sent["n"] == 2
    assert given == {"n": 2, "custom_params": {"thinking_budget": 3}}
    assert carried(with_positions(None, [5])["custom_params"]) == [5]
    assert carried(None) is None
    assert carried({"other": 1}) is None
