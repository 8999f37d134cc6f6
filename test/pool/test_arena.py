"""Pages are each in one place at a time, in runs that are as long as they can be."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.pool.arena import PageArena, Runs, page_count, page_numbers


def arena(pages: int, reserved: int = 0) -> PageArena:
    return PageArena(torch.empty((pages, 512), dtype=torch.uint8), reserved=reserved)


def taken(runs: Runs | None) -> Runs:
    assert runs is not None
    return runs


def test_pages_are_handed_out_until_the_reserve_is_left() -> None:
    pages = arena(5, reserved=2)
    some = taken(pages.take(3))
    assert pages.available == 0
    assert pages.take(1) is None
    rest = taken(pages.take(2, from_reserve=True))
    assert sorted(page_numbers([*some, *rest])) == list(range(5))
    assert pages.take(1, from_reserve=True) is None
    pages.give_back(rest)
    assert pages.take(1) is None
    pages.give_back(some)
    assert pages.available == 3


def test_a_checkpoint_lies_in_one_run_where_there_is_one() -> None:
    pages = arena(20)
    first, second, third = (taken(pages.take(5)) for _ in range(3))
    assert (first, second, third) == ([range(5)], [range(5, 10)], [range(10, 15)])
    pages.give_back(first)
    # The gap is filled by what fits into it. What does not is put together.
    assert pages.take(3) == [range(3)]
    assert pages.take(5) == [range(15, 20)]
    assert third == [range(10, 15)]
    pages.give_back(second)
    assert pages.take(7) == [range(3, 10)]


def test_what_fits_nowhere_is_made_of_the_longest_runs_in_ascending_order() -> None:
    pages = arena(12)
    parts = [taken(pages.take(count)) for count in (1, 1, 2, 1, 4, 3)]
    for part in (parts[0], parts[2], parts[4]):
        pages.give_back(part)
    assert pages.take(6) == [range(2, 4), range(5, 9)]
    assert pages.take(1) == [range(1)]


@given(
    size=st.integers(1, 40),
    reserved=st.integers(0, 5),
    steps=st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.booleans()), max_size=60),
)
def test_any_use(size: int, reserved: int, steps: list[tuple[bool, int, bool]]) -> None:
    pages = arena(size, reserved)
    free = set(range(size))
    held: list[Runs] = []
    for take, number, from_reserve in steps:
        if not take and held:
            runs = held.pop(number % len(held))
            pages.give_back(runs)
            free |= set(page_numbers(runs))
        elif take:
            room = len(free) - (0 if from_reserve else reserved)
            got = pages.take(number, from_reserve=from_reserve)
            assert (got is not None) == (number <= room)
            if got is not None:
                numbers = page_numbers(got)
                assert page_count(got) == number == len(set(numbers))
                assert numbers == sorted(numbers)
                assert free.issuperset(numbers)
                longest = longest_run(free)
                assert len(got) == 1 or longest < number
                free -= set(numbers)
                held.append(got)
        assert pages.available == len(free) - reserved
    pages.clear()
    assert pages.take(size, from_reserve=True) == [range(size)]


def longest_run(numbers: set[int]) -> int:
    longest = length = 0
    for number in range(max(numbers, default=-1) + 1):
        length = length + 1 if number in numbers else 0
        longest = max(longest, length)
    return longest
