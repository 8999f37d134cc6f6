"""Signatures of places where prompts part, against a scan of the tokens."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.policy.signatures import REACH, WIDTH, Found, Name, Read, Signatures

Three = tuple[int, ...]

prompts = st.lists(st.integers(0, 3), max_size=40)


def reading(tokens: list[int]) -> Read:
    return Read(np.array(tokens, np.int64))


def signature(tokens: Three) -> int:
    return reading(list(tokens)).before(WIDTH)


def key(found: Found, place: int) -> int:
    (at,) = (found.places == place).nonzero()[0]
    return int(found.keys[at])


def chances(signatures: Signatures, tokens: list[int]) -> dict[int, float]:
    """Of the places in a prompt, by how many tokens come before them."""
    found = signatures.find(reading(tokens), 0)
    return dict(zip(found.places.tolist(), signatures.chances(found.keys).tolist(), strict=True))


def fresh(number: int) -> list[int]:
    """Three tokens that no other number has."""
    return [1000 + 3 * number, 1001 + 3 * number, 1002 + 3 * number]


# ---- what is found ----


def test_a_signature_is_of_three_tokens_in_their_order() -> None:
    few = {signature(tokens) for tokens in product(range(5), repeat=3)}
    assert len(few) == 5**3
    assert len({signature((a, b, 100_000)) for a in range(100) for b in range(100)}) == 100**2


def test_a_read_prompt_has_a_signature_for_each_place_behind_the_first_tokens() -> None:
    prompt = reading([5, 6, 7, 8])
    assert [prompt.before(3), prompt.before(4)] == [signature((5, 6, 7)), signature((6, 7, 8))]
    for short in ([], [1], [1, 2]):
        assert len(reading(short)) == 0


@given(prompts, st.integers(0, 40), st.integers(0, 40))
def test_those_between_two_places_are_those_before_each(
    tokens: list[int], one: int, other: int
) -> None:
    prompt = reading(tokens)
    start, end = sorted(min(each, len(prompt)) for each in (one, other))
    found = prompt.between(start, end).tolist()
    assert found == [prompt.before(place + WIDTH) for place in range(start, end)]


def test_a_long_prompt_is_searched_as_a_short_one() -> None:
    """Known ones stand all over it, twice each, and on either side of each block's end."""
    signatures, random = Signatures(), np.random.default_rng(0)
    tokens = random.integers(10_000, 100_000, 100_000)
    places = sorted({*range(500, 100_000, 700), *range(1 << 15, 100_000, 1 << 15)})
    for number, place in enumerate(places):
        signatures.parted(reading([*fresh(number // 2), 9]), 3)
        tokens[place - WIDTH : place] = fresh(number // 2)
    for start in (0, 499, 500, 20_000, 99_500):
        found = signatures.find(Read(tokens), start)
        expected = [
            (place, Name(signature(tuple(fresh(number // 2))), number % 2))
            for number, place in enumerate(places)
            if place > start
        ]
        names = [signatures.name(each) for each in found.keys.tolist()]
        assert list(zip(found.places.tolist(), names, strict=True)) == expected


class Naive:
    """Which signatures are known, by their tokens."""

    def __init__(self) -> None:
        self.known: set[Three] = set()

    def parted(self, tokens: list[int], place: int) -> None:
        near = {
            tuple(tokens[end - WIDTH : end]) for end in range(max(place - REACH, WIDTH), place + 1)
        }
        if place >= WIDTH and not near & self.known:
            self.known.add(tuple(tokens[place - WIDTH : place]))

    def find(self, tokens: list[int], start: int) -> list[tuple[int, Name]]:
        found, before = [], set()
        for end in range(WIDTH, len(tokens) + 1):
            each = tuple(tokens[end - WIDTH : end])
            if each in self.known:
                if end > start:
                    found.append((end, Name(signature(each), int(each in before))))
                before.add(each)
        return found


@given(st.lists(st.tuples(prompts, st.integers(0, 40)), max_size=12), prompts, st.integers(0, 40))
def test_known_signatures_are_found_as_by_a_scan(
    partings: list[tuple[list[int], int]], tokens: list[int], start: int
) -> None:
    signatures, naive = Signatures(), Naive()
    for prompt, place in partings:
        at = min(place, len(prompt))
        signatures.parted(reading(prompt), at)
        naive.parted(prompt, at)
    found = signatures.find(reading(tokens), start)
    names = [signatures.name(each) for each in found.keys.tolist()]
    assert list(zip(found.places.tolist(), names, strict=True)) == naive.find(tokens, start)
    assert len(signatures) == len(naive.known)


def test_those_are_found_that_end_behind_a_place() -> None:
    signatures = Signatures()
    tokens = list(range(100))
    signatures.parted(reading(tokens), 50)
    assert signatures.find(reading(tokens), 49).places.tolist() == [50]
    assert signatures.find(reading(tokens), 50).places.tolist() == []


def test_nothing_is_known_at_first() -> None:
    assert len(Signatures().find(reading([1, 2, 3, 4]), 0).places) == 0


def test_what_parts_shortly_behind_a_known_one_counts_there() -> None:
    signatures = Signatures()
    tokens = list(range(100))
    signatures.parted(reading(tokens), 50)
    for place in (50, 51, 50 + REACH):
        signatures.parted(reading(tokens), place)
        assert list(chances(signatures, tokens)) == [50]
    signatures.parted(reading(tokens), 50 + REACH + 1)
    assert list(chances(signatures, tokens)) == [50, 50 + REACH + 1]
    # What parts before it is another place.
    signatures.parted(reading(tokens), 49)
    assert list(chances(signatures, tokens)) == [49, 50, 50 + REACH + 1]


def test_a_prompt_too_short_to_have_a_signature_makes_none_known() -> None:
    signatures = Signatures()
    signatures.parted(reading([1, 2]), 2)
    assert len(signatures) == 0


# ---- how likely prompts part there ----


def test_a_new_one_is_taken_for_one_place_where_prompts_part_among_three() -> None:
    signatures = Signatures()
    signatures.parted(reading([1, 2, 3, 9]), 3)
    assert chances(signatures, [1, 2, 3, 4, 1, 2, 3]) == {
        3: pytest.approx(1.2 / 3),
        7: pytest.approx(0.2 / 2),
    }


def test_the_first_in_a_prompt_is_counted_apart_from_later_ones() -> None:
    signatures = Signatures()
    signatures.parted(reading([1, 2, 3, 4, 1, 2, 3, 9]), 7)
    assert chances(signatures, [1, 2, 3, 4, 1, 2, 3]) == {
        3: pytest.approx(0.2 / 2),
        7: pytest.approx(1.2 / 3),
    }
    prompt = reading([1, 2, 3])
    first = key(signatures.find(prompt, 0), 3)
    for _ in range(10):
        signatures.passed(np.array([first]))
        signatures.used(signatures.name(first))
    assert chances(signatures, [1, 2, 3, 4, 1, 2, 3]) == {
        3: pytest.approx(10.2 / 12),
        7: pytest.approx(1.2 / 3),
    }


def test_a_prompt_counts_each_of_its_places() -> None:
    signatures = Signatures()
    signatures.parted(reading([1, 2, 3, 9]), 3)
    found = signatures.find(reading([1, 2, 3, 4] * 4), 0)
    assert len(found.keys) == 4
    signatures.passed(found.keys)
    assert chances(signatures, [1, 2, 3, 4] * 2) == {
        3: pytest.approx(1.2 / 4),
        7: pytest.approx(0.2 / 5),
    }


@given(st.lists(st.booleans(), max_size=40))
def test_the_chance_is_how_many_of_them_prompts_parted_at(uses: list[bool]) -> None:
    signatures = Signatures()
    signatures.parted(reading([1, 2, 3, 9]), 3)
    first = key(signatures.find(reading([1, 2, 3]), 0), 3)
    for used in uses:
        signatures.passed(np.array([first]))
        if used:
            signatures.used(signatures.name(first))
    expected = (1.2 + sum(uses)) / (3 + len(uses))
    assert chances(signatures, [1, 2, 3]) == {3: pytest.approx(expected)}


def test_counts_follow_the_traffic() -> None:
    signatures = Signatures()
    signatures.parted(reading([1, 2, 3, 9]), 3)
    first = key(signatures.find(reading([1, 2, 3]), 0), 3)
    name = signatures.name(first)
    for _ in range(1000):
        signatures.passed(np.array([first]))
        signatures.used(name)
    assert chances(signatures, [1, 2, 3])[3] > 0.95
    for _ in range(100):
        signatures.passed(np.array([first]))
    assert chances(signatures, [1, 2, 3])[3] < 0.3


def test_no_chance_is_more_than_certain() -> None:
    signatures = Signatures()
    signatures.parted(reading([1, 2, 3, 9]), 3)
    name = signatures.name(key(signatures.find(reading([1, 2, 3]), 0), 3))
    for _ in range(50):
        signatures.used(name)
    assert chances(signatures, [1, 2, 3]) == {3: 1.0}


# ---- what is forgotten ----


def test_a_name_outlives_its_key() -> None:
    signatures = Signatures()
    for number in range(50):
        signatures.parted(reading([*fresh(number), 9]), 3)
    names = []
    for number in range(50):
        (each,) = signatures.find(reading(fresh(number)), 0).keys.tolist()
        names.append(signatures.name(each))
    for number in range(50, 300):
        signatures.parted(reading([*fresh(number), 9]), 3)
    for name in names[:25]:
        signatures.used(name)
    for number in range(50):
        expected = 2.2 / 3 if number < 25 else 1.2 / 3
        assert chances(signatures, fresh(number)) == {3: pytest.approx(expected)}


def test_those_behind_which_prompts_part_least_are_forgotten() -> None:
    signatures = Signatures()
    names = []
    for number in range(1024):
        signatures.parted(reading([*fresh(number), 9]), 3)
        (each,) = signatures.find(reading(fresh(number)), 0).keys.tolist()
        names.append(signatures.name(each))
    used = range(7, 7 + 500)
    for number in used:
        signatures.used(names[number])
    assert len(signatures) == 1024
    signatures.parted(reading([*fresh(5000), 9]), 3)
    assert len(signatures) == 513
    for number in (*used, 5000):
        assert len(chances(signatures, fresh(number))) == 1
    others = [number for number in range(1024) if number not in used]
    kept = [number for number in others if chances(signatures, fresh(number))]
    assert len(kept) == 12
    # A use of one that is forgotten counts nowhere.
    before = {number: chances(signatures, fresh(number)) for number in range(1024)}
    gone = next(number for number in others if number not in kept)
    signatures.used(names[gone])
    assert before == {number: chances(signatures, fresh(number)) for number in range(1024)}
    # It may become known again.
    signatures.parted(reading([*fresh(gone), 9]), 3)
    assert chances(signatures, fresh(gone)) == {3: pytest.approx(1.2 / 3)}
