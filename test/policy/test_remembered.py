"""Places of past requests, against their tokens."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sglang_marconi.policy.remembered import Prefixes, Remembered

sequences = st.lists(st.integers(0, 2), min_size=1, max_size=8)


def ids(tokens: list[int]) -> NDArray[np.int64]:
    return np.array(tokens, np.int64)


def prefixes(tokens: list[int]) -> Prefixes:
    return Prefixes(ids(tokens))


# ---- hashes ----


@given(sequences, sequences)
def test_prefixes_have_the_same_hash_where_their_tokens_are_the_same(
    one: list[int], other: list[int]
) -> None:
    ours, theirs = prefixes(one), prefixes(other)
    for first in range(1, len(one) + 1):
        for second in range(1, len(other) + 1):
            assert (ours.at(first) == theirs.at(second)) == (one[:first] == other[:second])


def test_no_two_of_many_prefixes_have_the_same_hash() -> None:
    random = np.random.default_rng(0)
    hashes = [Prefixes(random.integers(0, 100_000, 2000)).hashes for _ in range(50)]
    assert len(np.unique(np.concatenate(hashes))) == 50 * 2000


def test_a_hash_does_not_depend_on_what_was_hashed_before() -> None:
    tokens = list(range(50))
    before = prefixes(tokens).hashes.copy()
    Prefixes(np.arange(200_000))
    assert (prefixes(tokens).hashes == before).all()
    assert (Prefixes(np.arange(150_000)).hashes[:50] == before).all()


@given(sequences, st.integers(0, 8))
def test_what_comes_after_known_tokens_goes_on_from_their_hash(
    tokens: list[int], start: int
) -> None:
    start = min(start, len(tokens))
    whole = prefixes(tokens)
    rest = Prefixes(ids(tokens[start:]), start, whole.at(start))
    assert len(rest) == len(whole) == len(tokens)
    for end in range(start, len(tokens) + 1):
        assert rest.at(end) == whole.at(end)
    places = np.arange(start + 1, len(tokens) + 1)
    assert (rest.at_all(places) == whole.at_all(places)).all()


# ---- places ----


@given(st.lists(sequences, max_size=30), st.lists(sequences, min_size=1, max_size=10))
def test_a_prompt_reaches_the_last_place_that_is_its_beginning(
    places: list[list[int]], prompts: list[list[int]]
) -> None:
    remembered: Remembered[tuple[int, ...]] = Remembered()
    known: set[tuple[int, ...]] = set()
    for place in places:
        if not remembered.knows(prefixes(place), len(place)):
            remembered.add(prefixes(place), len(place), tuple(place))
            assert tuple(place) not in known
            known.add(tuple(place))
    assert known == {tuple(place) for place in places}
    for prompt in prompts:
        # Before its own end.
        starts = [tuple(prompt[:length]) for length in range(1, len(prompt))]
        reached = [start for start in starts if start in known]
        found = remembered.reached(prefixes(prompt))
        assert found == (reached[-1] if reached else None)
        everywhere = remembered.known(prefixes(prompt), np.arange(1, len(prompt) + 1))
        assert everywhere.tolist() == [start in known for start in [*starts, tuple(prompt)]]


def test_a_place_inside_a_sequence_is_remembered_without_the_rest() -> None:
    remembered: Remembered[str] = Remembered()
    remembered.add(prefixes([1, 2, 3, 4]), 2, "place")
    assert remembered.reached(prefixes([1, 2, 9])) == "place"
    assert remembered.reached(prefixes([1, 2])) is None
    assert remembered.reached(prefixes([2, 1, 9])) is None


def test_nothing_is_remembered_at_first() -> None:
    remembered: Remembered[str] = Remembered()
    assert remembered.reached(prefixes([1, 2])) is None
    assert not remembered.known(prefixes([1, 2]), np.array([1, 2])).any()
    # Empty slots are no place of any prompt: not even of one whose hash they have.
    assert not remembered.known(Prefixes(ids([-1])), np.array([1])).any()
    assert remembered.reached(Prefixes(ids([-1, 5]))) is None


def test_no_places_are_asked_for() -> None:
    found = Remembered[str]().known(prefixes([1]), np.zeros(0, np.int64))
    assert found.dtype == np.bool_ and not len(found)


def test_the_oldest_are_forgotten() -> None:
    remembered: Remembered[int] = Remembered()
    for number in range(4096 + 100):
        remembered.add(prefixes([number]), 1, number)
    for number in range(4096 + 100):
        kept = number >= 100
        tokens = prefixes([number, 5])
        assert remembered.reached(tokens) == (number if kept else None)
        assert remembered.knows(tokens, 1) is kept
        assert remembered.known(tokens, np.array([1])).tolist() == [kept]


def test_one_that_is_remembered_twice_is_known_until_both_are_forgotten() -> None:
    remembered: Remembered[int] = Remembered()
    remembered.add(prefixes([7]), 1, 0)
    for number in range(4095):
        remembered.add(prefixes([100 + number]), 1, number)
        if number == 50:
            remembered.add(prefixes([7]), 1, 1)
    assert remembered.reached(prefixes([7, 5])) == 1
    assert remembered.knows(prefixes([7]), 1)
