"""How likely places are resumed at, by classes, against counts in dicts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sglang_marconi.policy.likelihood import Keys, Likelihood

WIDTHS = (1, 3)
PRIOR = 0.3
WEIGHT = 4.0


def ids(*tokens: int) -> NDArray[np.int64]:
    return np.array(tokens, np.int64)


def seen(model: Likelihood, keys: Keys, places: int, used: int) -> None:
    for number in range(places):
        model.passed(keys)
        if number < used:
            model.used(keys)


def test_before_anything_was_seen_the_guess_holds() -> None:
    model = Likelihood(WIDTHS, PRIOR)
    assert model.average() == PRIOR
    assert model.chance(model.keys(ids(1, 2, 3), 3)) == PRIOR


def test_each_class_corrects_what_the_wider_one_says() -> None:
    model = Likelihood((1,), PRIOR)
    seen(model, model.keys(ids(5), 1), places=4, used=4)
    # Of all places: (4 + 4 * 0.3) / (4 + 4); of those after a 5: (4 + 4 * 0.65) / (4 + 4).
    assert model.average() == pytest.approx(0.65)
    assert model.chance(model.keys(ids(5), 1)) == pytest.approx(0.825)
    # After a token that nobody has seen, what is known of all holds.
    assert model.chance(model.keys(ids(6), 1)) == pytest.approx(0.65)


def test_what_came_before_tells_places_apart_that_have_the_same_tokens() -> None:
    model = Likelihood(WIDTHS, PRIOR)
    tokens = ids(1, 2, 3, 4)
    often, never = model.keys(tokens, 4, 1), model.keys(tokens, 4, 2)
    seen(model, often, places=20, used=20)
    seen(model, never, places=20, used=0)
    assert model.chance(never) < 0.1
    assert model.chance(often) > 0.9
    assert 0.4 < model.average() < 0.6


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.data())
def test_classes_are_those_with_the_same_tokens_before_them(
    tokens: list[int], data: st.DataObject
) -> None:
    model = Likelihood((1, 2, 4), PRIOR)
    one, other = (data.draw(st.integers(4, 4 + len(tokens))) for _ in range(2))
    sequence = [7, 7, 7, 7, *tokens]
    keys, others = (model.keys(ids(*sequence), place) for place in (one, other))
    for at, width in enumerate((1, 2, 4), 1):
        same = sequence[one - width : one] == sequence[other - width : other]
        assert (keys[at] == others[at]) == same
    assert keys[0] == others[0]


@pytest.mark.parametrize("came", [None, 1])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_place_with_few_tokens_before_it_counts_once(came: int | None, place: int) -> None:
    model = Likelihood((2, 6, 10), PRIOR)
    keys = model.keys(ids(1, 2, 3), place, came)
    assert len(set(keys)) == len(keys)


events = st.lists(
    st.tuples(st.lists(st.integers(0, 1), min_size=3, max_size=3), st.booleans()), max_size=120
)


@given(events)
def test_against_counts_in_a_dict(events: list[tuple[list[int], bool]]) -> None:
    model = Likelihood(WIDTHS, PRIOR)
    places: Counter[tuple[int, ...]] = Counter()
    used: Counter[tuple[int, ...]] = Counter()
    for tokens, is_used in events:
        keys = model.keys(ids(*tokens), 3)
        model.passed(keys)
        if is_used:
            model.used(keys)
        for width in (0, *WIDTHS):
            places[tuple(tokens[3 - width :])] += 1
            used[tuple(tokens[3 - width :])] += is_used
    for tokens in ([0, 0, 0], [0, 1, 0], [1, 1, 1]):
        chance = PRIOR
        for width in (0, *WIDTHS):
            known = tuple(tokens[3 - width :])
            chance = (used[known] + WEIGHT * chance) / (places[known] + WEIGHT)
        assert model.chance(model.keys(ids(*tokens), 3)) == pytest.approx(chance)


def test_counts_follow_the_traffic() -> None:
    model = Likelihood(WIDTHS, PRIOR)
    keys = model.keys(ids(1, 2, 3), 3)
    seen(model, keys, places=1000, used=1000)
    seen(model, keys, places=400, used=0)
    assert model.chance(keys) < 0.3


def test_a_place_may_be_used_long_after_it_was_passed() -> None:
    model = Likelihood(WIDTHS, PRIOR)
    keys = model.keys(ids(1, 2, 3), 3)
    seen(model, keys, places=257, used=0)
    for _ in range(257):
        model.used(keys)
    assert model.chance(keys) == 1.0


def test_the_classes_that_came_up_longest_ago_are_forgotten() -> None:
    model = Likelihood((1,), PRIOR)
    kept, forgotten = model.keys(ids(1), 1), model.keys(ids(2), 1)
    seen(model, kept, places=50, used=50)
    seen(model, forgotten, places=50, used=50)
    for token in range(10, 4500):
        model.passed(model.keys(ids(token), 1))
        if token % 1000 == 0:
            model.passed(kept)
    # All places together are never forgotten: hardly any of them was used.
    assert model.average() < 0.05
    assert model.chance(forgotten) == model.average()
    assert model.chance(kept) > 0.8


def test_a_use_of_what_is_not_known_changes_nothing() -> None:
    model = Likelihood(WIDTHS, PRIOR)
    keys = model.keys(ids(1, 2, 3), 3)
    model.used(keys)
    assert model.chance(keys) == PRIOR
    model.passed(keys)
    assert model.chance(keys) < PRIOR
