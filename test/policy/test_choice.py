"""Which places of a prompt get a state: known answers, and all subsets of a few places."""

from __future__ import annotations

from itertools import combinations
from math import e

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.policy.choice import Place, Prospect, choose

LEAST = 10.0
MOST = 6

prospects = st.lists(
    st.builds(
        Prospect,
        st.integers(1, 300),
        st.sampled_from([Place.PROMPT, Place.BOUNDARY]),
        st.integers(0, 20).map(lambda twentieths: twentieths / 20),
    ),
    max_size=9,
)


def boundary(tokens: int, chance: float) -> Prospect:
    return Prospect(tokens, Place.BOUNDARY, chance)


def kept(*places: tuple[int, float], above: int = 0) -> list[tuple[int, float]]:
    """The tokens and chances of what is chosen, rounded."""
    found = choose([boundary(*place) for place in places], above, LEAST)
    return [(each.tokens, round(each.chance, 9)) for each in found]


def test_a_guess_is_what_nobody_has_seen_or_said() -> None:
    assert [place for place in Place if place.is_guess] == [Place.PROMPT, Place.BOUNDARY]
    assert list(Place) == sorted(Place)


def test_without_places_there_is_none() -> None:
    assert choose([], 0, LEAST) == []


@pytest.mark.parametrize(("tokens", "chosen"), [(119, False), (120, True)])
def test_a_place_has_to_save_enough_by_expectation(tokens: int, chosen: bool) -> None:
    assert kept((tokens, 0.5), above=100) == ([(tokens, 0.5)] if chosen else [])


@pytest.mark.parametrize(("chance", "chosen"), [(0.09, False), (0.1, True)])
def test_what_is_hardly_ever_used_gets_none_however_much_it_saves(
    chance: float, chosen: bool
) -> None:
    assert kept((100_000, chance)) == ([(100_000, chance)] if chosen else [])


def test_what_is_hardly_ever_used_does_not_add_to_what_is() -> None:
    assert kept((100, 0.5), (101, 0.09)) == [(100, 0.5)]


def test_one_state_serves_all_places_up_to_the_next() -> None:
    assert kept((100, 0.5), (110, 0.25), (400, 0.125)) == [(100, 0.75), (400, 0.125)]


def test_places_far_apart_have_a_state_each() -> None:
    assert kept((100, 0.3), (200, 0.3), (300, 0.3)) == [(100, 0.3), (200, 0.3), (300, 0.3)]


def test_those_before_a_state_are_not_served_by_it() -> None:
    """The last is chosen first; what leaves before it needs one of its own."""
    assert kept((80, 0.2), (100, 0.9)) == [(80, 0.2), (100, 0.9)]
    assert kept((49, 0.2), (100, 0.9)) == [(100, 0.9)]


def test_what_lies_above_where_all_resume_gets_none() -> None:
    assert kept((100, 1.0), (200, 1.0), (300, 1.0), above=200) == [(300, 1.0)]


def test_a_state_is_kept_for_the_most_likely_of_what_it_serves() -> None:
    both = [Prospect(100, Place.BOUNDARY, 0.3), Prospect(101, Place.PROMPT, 0.6)]
    assert choose(both, 0, LEAST) == [Prospect(100, Place.PROMPT, pytest.approx(0.9))]
    same = [Prospect(100, Place.PROMPT, 0.2), Prospect(100, Place.BOUNDARY, 0.3)]
    assert choose(same, 0, LEAST) == [Prospect(100, Place.BOUNDARY, pytest.approx(0.5))]


def test_no_chance_is_more_than_certain() -> None:
    assert kept((100, 0.7), (101, 0.7)) == [(100, 1.0)]


def test_a_state_for_which_a_prefill_is_cut_has_to_save_that_too() -> None:
    """At the prompt's end it is not cut."""
    places = [boundary(300, 0.5), boundary(350, 0.9)]
    for end, chosen in ((350, [350]), (360, [300]), (300, [300])):
        found = choose(places, 0, LEAST, cut=400.0, end=end)
        assert [each.tokens for each in found] == chosen
    assert choose(places, 0, LEAST, cut=420.0, end=360) == []


def test_a_prompt_has_so_many_states_at_most() -> None:
    """Those that save most."""
    places = [(100 * number, 0.2 + number / 100) for number in range(1, 21)]
    found = kept(*places)
    assert len(found) == MOST
    assert found[-1][0] > 1500


def saved(states: tuple[int, ...], places: list[Prospect], above: int) -> float:
    """Tokens that whoever leaves at the places does not compute again, by expectation."""
    total = 0.0
    for place in places:
        resumed = max((at for at in states if at <= place.tokens), default=above)
        total += place.chance * max(resumed - above, 0)
    return total


@given(prospects, st.integers(0, 100))
def test_what_is_chosen_is_near_the_best_of_all_choices(places: list[Prospect], above: int) -> None:
    found = choose(places, above, LEAST)
    states = tuple(each.tokens for each in found)
    likely = [each for each in places if each.chance >= 0.1]
    possible = sorted({each.tokens for each in likely})
    assert list(states) == sorted(set(states)) and set(states) <= set(possible)
    worth = saved(states, likely, above)
    choices = [
        combination
        for size in range(min(MOST, len(possible)) + 1)
        for combination in combinations(possible, size)
    ]
    best = max(saved(states, likely, above) for states in choices)
    more = [saved((*states, at), likely, above) - worth for at in possible]
    if len(found) < MOST:
        # Nothing is left that is worth one more; so no choice is worth that much more.
        assert all(gain < LEAST + 1e-6 for gain in more)
        assert worth >= best - MOST * LEAST - 1e-6
    else:
        # What is saved has diminishing returns: taking the best first is never worse than that
        # (Nemhauser, Wolsey and Fisher, 1978).
        assert worth >= (1 - 1 / e) * best - 1e-6


@given(prospects, st.integers(0, 100))
def test_each_state_has_the_chances_of_those_that_resume_there(
    places: list[Prospect], above: int
) -> None:
    found = choose(places, above, LEAST)
    ends = [each.tokens for each in found[1:]] + [10**9]
    for each, end in zip(found, ends, strict=False):
        assert each.tokens > above
        served = [p for p in places if each.tokens <= p.tokens < end and p.chance >= 0.1]
        assert each.chance == pytest.approx(min(sum(p.chance for p in served), 1.0))
        most = max(p.chance for p in served)
        assert each.place in {p.place for p in served if p.chance == most}
