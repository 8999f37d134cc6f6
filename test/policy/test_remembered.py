"""Places of past requests, against their tokens."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sglang_marconi.policy.remembered import Prefixes, Remembered, hash_of

T = TypeVar("T")

sequences = st.lists(st.integers(0, 2), min_size=1, max_size=8)


def ids(tokens: list[int]) -> NDArray[np.int64]:
    return np.array(tokens, np.int64)


def prefixes(tokens: list[int], namespace: int = 0) -> Prefixes:
    found = Prefixes()
    found.read(ids(tokens), namespace)
    return found


def remember(remembered: Remembered[T], tokens: list[int], value: T) -> None:
    remembered.add(hash_of(ids(tokens)), len(tokens), value)


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
    everywhere = np.arange(1, 2001)
    hashes = [
        each
        for _ in range(50)
        for each in prefixes(random.integers(0, 100_000, 2000).tolist()).at_all(everywhere)
    ]
    assert len(set(hashes)) == 50 * 2000


def test_a_hash_does_not_depend_on_what_was_hashed_before() -> None:
    tokens, everywhere = list(range(50)), np.arange(1, 51)
    one = prefixes(tokens)
    before = one.at_all(everywhere)
    for length in (200_000, 10):
        one.read(np.arange(length))
        assert len(one) == length
    one.read(np.arange(150_000))
    assert one.at_all(everywhere) == prefixes(tokens).at_all(everywhere) == before


@given(sequences, st.integers(0, 8), st.sampled_from([0, 1, 2**64 - 1]))
def test_a_sequence_has_the_hash_of_a_prefix_that_goes_on_from_another_s(
    tokens: list[int], start: int, namespace: int
) -> None:
    whole = prefixes(tokens, namespace)
    for end in range(min(start, len(tokens)), len(tokens) + 1):
        found = hash_of(ids(tokens[:end]), min(start, end), whole.at(min(start, end)))
        assert 0 <= found < 2**64
        assert found == whole.at(end) == hash_of(ids(tokens[:end]), before=namespace)
    everywhere = range(1, len(tokens) + 1)
    assert whole.at_all(np.array(everywhere)) == [whole.at(end) for end in everywhere]


@given(sequences, sequences)
def test_namespaces_share_no_prefix(one: list[int], other: list[int]) -> None:
    ours, theirs = prefixes(one, 1), prefixes(other, 2)
    assert not {ours.at(end) for end in range(len(one) + 1)} & {
        theirs.at(end) for end in range(len(other) + 1)
    }


# ---- places ----


@given(st.lists(sequences, max_size=30), st.lists(sequences, min_size=1, max_size=10))
def test_a_prompt_reaches_the_last_place_that_is_its_beginning(
    places: list[list[int]], prompts: list[list[int]]
) -> None:
    remembered: Remembered[tuple[int, ...]] = Remembered()
    known: set[tuple[int, ...]] = set()
    for place in places:
        if hash_of(ids(place)) not in remembered:
            remember(remembered, place, tuple(place))
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
    remembered.add(prefixes([1, 2, 3, 4]).at(2), 2, "place")
    assert remembered.reached(prefixes([1, 2, 9])) == "place"
    assert remembered.reached(prefixes([1, 2])) is None
    assert remembered.reached(prefixes([2, 1, 9])) is None


def test_nothing_is_remembered_at_first() -> None:
    remembered: Remembered[str] = Remembered()
    assert remembered.reached(prefixes([1, 2])) is None
    assert not remembered.known(prefixes([1, 2]), np.array([1, 2])).any()
    # Empty slots are no place of any prompt: not even of one whose hash they have.
    assert not remembered.known(prefixes([0]), np.array([1])).any()
    assert remembered.reached(prefixes([0, 5])) is None
    assert hash_of(ids([])) == 0 and 0 not in remembered


def test_no_places_are_asked_for() -> None:
    found = Remembered[str]().known(prefixes([1]), np.zeros(0, np.int64))
    assert found.dtype == np.bool_ and not len(found)


def test_the_oldest_are_forgotten() -> None:
    remembered: Remembered[int] = Remembered()
    for number in range(4096 + 100):
        remember(remembered, [number], number)
    for number in range(4096 + 100):
        kept = number >= 100
        tokens = prefixes([number, 5])
        assert remembered.reached(tokens) == (number if kept else None)
        assert (tokens.at(1) in remembered) is kept
        assert remembered.known(tokens, np.array([1])).tolist() == [kept]


def test_one_that_is_remembered_twice_is_known_until_both_are_forgotten() -> None:
    remembered: Remembered[int] = Remembered()
    remember(remembered, [7], 0)
    for number in range(4095):
        remember(remembered, [100 + number], number)
        if number == 50:
            remember(remembered, [7], 1)
    assert remembered.reached(prefixes([7, 5])) == 1
    assert hash_of(ids([7])) in remembered
