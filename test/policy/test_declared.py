"""Which declared places get a checkpoint."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.cost import preset
from sglang_marconi.policy import declared
from sglang_marconi.policy.admission import is_worth_its_room
from sglang_marconi.policy.declared import declared_points

COST = preset("paper-7b")
lengths = st.integers(min_value=0, max_value=5000)


@given(st.lists(lengths, max_size=16), lengths, st.sampled_from([1, 16, 64]))
def test_points_are_at_whole_pages_and_each_is_worth_its_room(
    places: list[int], resumable: int, page: int
) -> None:
    points = declared_points(places, resumable, page, COST)
    assert points == sorted(points)
    assert all(point % page == 0 for point in points)
    assert all(any(0 <= place - point < page for place in places) for point in points)
    for above, point in zip([resumable, *points], points, strict=False):
        assert point > above
        assert is_worth_its_room(above, point, COST)


@pytest.mark.parametrize(("resumable", "points"), [(0, [500]), (499, []), (500, []), (700, [])])
def test_what_the_prompt_resumes_from_is_not_stored_again(
    resumable: int, points: list[int]
) -> None:
    assert declared_points([500], resumable, 1, COST) == points


def test_documented_examples() -> None:
    assert doctest.testmod(declared).failed == 0
