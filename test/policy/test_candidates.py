"""The candidates of one eviction, against a dict and the paper's formula worked out in full."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count, permutations
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sglang_marconi.policy.tiers import Tiers
from sglang_marconi.policy.utility import CandidateTable

_RANKS = 3
_FIRST_ROWS = 64
# What the table takes for a tie, and what surely is one, however it rounds.
_TIE = 1e-9
_SURE_TIE = 1e-11

# Few values, so that many candidates tie, and wide ones.
recencies = st.integers(0, 3) | st.integers(0, 10_000)
efficiencies = st.integers(0, 3) | st.integers(0, 400_000).map(lambda quarters: quarters / 4)
alphas = st.sampled_from([0.0, 0.25, 1.0, 2.0, 50.0])
ranks = st.integers(0, _RANKS - 1)

Row = tuple[float, float]
T = TypeVar("T")
Ranked = Tiers[T, int, CandidateTable[T]]


def ranked_tables(ranks: int) -> Ranked[Any]:
    return Tiers({rank: CandidateTable() for rank in range(ranks)})


def least_useful(ranked: Ranked[T], alpha: float) -> T | None:
    table = ranked.first()
    return None if table is None else table.least_useful(alpha)


def normalised(values: Iterable[float]) -> list[float]:
    """``values`` on a scale from 0 to 1; all 0 where none differs."""
    values = list(values)
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def utilities(rows: dict[int, Row], alpha: float) -> dict[int, float]:
    """Marconi's utility of each candidate (arXiv 2411.19379, section 4.2)."""
    recency = normalised(row[0] for row in rows.values())
    efficiency = normalised(row[1] for row in rows.values())
    return {owner: r + alpha * e for owner, r, e in zip(rows, recency, efficiency, strict=True)}


def assert_least_useful(victim: int, rows: dict[int, Row], alpha: float) -> None:
    utility = utilities(rows, alpha)
    least = min(utility.values())
    assert utility[victim] <= least + _TIE + _SURE_TIE
    equal = [rows[owner] for owner in rows if utility[owner] <= least + _SURE_TIE]
    assert rows[victim][0] <= min(recency for recency, _ in equal)


class TableMachine(RuleBasedStateMachine):
    """A ``CandidateTable`` beside a dict of the same rows."""

    @initialize(rows=st.integers(0, 3 * _FIRST_ROWS))
    def begin(self, rows: int) -> None:
        self.table: CandidateTable[int] = CandidateTable()
        self.rows: dict[int, Row] = {}
        self.owners = count()
        for row in range(rows):
            self.add(row * 7919 % 1009, row * 104729 % 997 / 4)

    def some_owner(self, pick: int) -> int:
        return list(self.rows)[pick % len(self.rows)]

    @rule(recency=recencies, efficiency=efficiencies)
    def add(self, recency: float, efficiency: float) -> None:
        owner = next(self.owners)
        self.table.put(owner, recency, efficiency)
        self.rows[owner] = (recency, efficiency)

    @precondition(lambda self: self.rows)
    @rule(pick=st.integers(0))
    def discard(self, pick: int) -> None:
        owner = self.some_owner(pick)
        self.table.discard(owner)
        del self.rows[owner]
        assert owner not in self.table

    @precondition(lambda self: self.rows)
    @rule(pick=st.integers(0), recency=recencies)
    def touch(self, pick: int, recency: float) -> None:
        owner = self.some_owner(pick)
        self.rows[owner] = (recency, self.rows[owner][1])
        self.table.put(owner, *self.rows[owner])

    @precondition(lambda self: self.rows)
    @rule(pick=st.integers(0), efficiency=efficiencies)
    def reprice(self, pick: int, efficiency: float) -> None:
        owner = self.some_owner(pick)
        self.rows[owner] = (self.rows[owner][0], efficiency)
        self.table.put(owner, *self.rows[owner])

    @precondition(lambda self: self.rows)
    @rule(alpha=alphas)
    def evict(self, alpha: float) -> None:
        victim = self.table.least_useful(alpha)
        assert_least_useful(victim, self.rows, alpha)
        self.table.discard(victim)
        del self.rows[victim]

    @invariant()
    def holds_the_same(self) -> None:
        assert len(self.table) == len(self.rows)
        assert all(owner in self.table for owner in self.rows)

    def teardown(self) -> None:
        while self.rows:
            self.evict(1.0)


class RankedMachine(RuleBasedStateMachine):
    """``Tiers`` of candidates beside a dict of the same rows and their ranks."""

    @initialize()
    def begin(self) -> None:
        self.ranked: Ranked[int] = ranked_tables(_RANKS)
        self.rows: dict[int, tuple[int, Row]] = {}

    @rule(owner=st.integers(0, 7), rank=ranks, recency=recencies, efficiency=efficiencies)
    def place(self, owner: int, rank: int, recency: float, efficiency: float) -> None:
        self.ranked.put(rank, owner, recency, efficiency)
        self.rows[owner] = (rank, (recency, efficiency))

    @rule(owner=st.integers(0, 7))
    def discard(self, owner: int) -> None:
        self.ranked.discard(owner)
        self.rows.pop(owner, None)

    @rule(alpha=alphas)
    def evict(self, alpha: float) -> None:
        victim = least_useful(self.ranked, alpha)
        if victim is None:
            assert not self.rows
            return
        lowest = min(rank for rank, _ in self.rows.values())
        peers = {owner: row for owner, (rank, row) in self.rows.items() if rank == lowest}
        assert victim in peers
        assert_least_useful(victim, peers, alpha)
        self.discard(victim)

    @invariant()
    def counts_the_same(self) -> None:
        assert len(self.ranked) == len(self.rows)

    def teardown(self) -> None:
        while self.rows:
            self.evict(2.0)


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRanked = RankedMachine.TestCase
TestRanked.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def table_of(rows: Iterable[Row]) -> CandidateTable[int]:
    table: CandidateTable[int] = CandidateTable()
    for owner, (recency, efficiency) in enumerate(rows):
        table.put(owner, recency, efficiency)
    return table


def test_utility_weighs_both_terms_on_their_own_scales() -> None:
    # Normalised: recency 0, 0.5, 1; efficiency 1, 0, 0.1.
    rows = [(10.0, 1010.0), (15.0, 10.0), (20.0, 110.0)]
    assert table_of(rows).least_useful(0.4) == 0
    assert table_of(rows).least_useful(0.6) == 1
    assert table_of([(10, 7), (11, 6), (30, 6.25)]).least_useful(1.0) == 1


@pytest.mark.parametrize("alpha", [0.0, 1.0, 100.0])
def test_a_term_that_is_the_same_for_all_decides_nothing(alpha: float) -> None:
    assert table_of([(5, 3), (4, 3), (6, 3)]).least_useful(alpha) == 1
    if alpha:
        assert table_of([(5, 3), (5, 4), (5, 2)]).least_useful(alpha) == 2
    assert table_of([(5, 3)]).least_useful(alpha) == 0
    assert table_of([(5, 3)] * 3).least_useful(alpha) in range(3)


@given(st.dictionaries(recencies, efficiencies, min_size=1, max_size=100))
def test_without_a_weight_on_efficiency_the_oldest_go_first(rows: dict[float, float]) -> None:
    table = table_of(rows.items())
    order = list(rows)
    evicted = []
    while table:
        victim = table.least_useful(0.0)
        table.discard(victim)
        evicted.append(order[victim])
    assert evicted == sorted(rows)


@given(st.dictionaries(efficiencies, recencies, min_size=2, max_size=100))
def test_a_large_weight_on_efficiency_leaves_recency_no_say(rows: dict[float, float]) -> None:
    table = table_of((recency, efficiency) for efficiency, recency in rows.items())
    assert list(rows)[table.least_useful(1e9)] == min(rows)


def test_of_equally_useful_candidates_the_older_goes() -> None:
    # Normalised, recency and efficiency add up to 1; 0.1 and the like round differently.
    rows = [(7.0, 0.1), (5.0, 0.3), (4.0, 0.4), (1.0, 0.7)]
    for order in permutations(rows):
        assert order[table_of(order).least_useful(1.0)] == (1.0, 0.7)


@pytest.mark.parametrize("rows", [_FIRST_ROWS - 1, _FIRST_ROWS, _FIRST_ROWS + 1, 1000])
def test_a_table_grows_as_needed_and_keeps_what_it_holds(rows: int) -> None:
    table = table_of((rows - row, row % 7) for row in range(rows))
    assert len(table) == rows
    for owner in reversed(range(rows)):
        assert table.least_useful(0.0) == owner
        table.discard(owner)
    assert not len(table)


def test_a_table_takes_an_owner_back() -> None:
    table = table_of([(1, 1), (2, 2), (3, 3)])
    table.discard(0)
    table.put(0, 4, 4)
    assert table.least_useful(1.0) == 1


def test_a_lower_rank_goes_first_however_useful() -> None:
    ranked: Ranked[str] = ranked_tables(_RANKS)
    assert least_useful(ranked, 1.0) is None
    ranked.put(2, "last", 0, 0)
    ranked.put(0, "first", 900, 900)
    ranked.put(0, "also first", 1000, 1000)
    ranked.put(1, "second", 1, 1)
    order: list[str] = []
    while (victim := least_useful(ranked, 1.0)) is not None:
        assert victim not in order
        ranked.discard(victim)
        order.append(victim)
    assert order == ["first", "also first", "second", "last"]
    ranked.discard("last")
    assert len(ranked) == 0
    assert ranked.find("last") is None


def test_the_tier_of_a_candidate_is_the_last_it_was_put_in() -> None:
    ranked: Ranked[str] = ranked_tables(_RANKS)
    for rank in (2, 0, 1):
        ranked.put(rank, "moved", 0, 0)
        ranked.put(1, "stays", 0, 0)
        found = ranked.find("moved")
        assert found is not None and found[0] == rank and "moved" in found[1]
    assert len(ranked) == 2


def test_each_rank_has_a_scale_of_its_own() -> None:
    # Normalised over both ranks, the first two would differ in efficiency by next to nothing.
    ranked: Ranked[str] = ranked_tables(2)
    ranked.put(0, "old", 1, 2)
    ranked.put(0, "new", 2, 1)
    ranked.put(1, "dear", 3, 10_000)
    assert least_useful(ranked, 2.0) == "new"
    assert least_useful(ranked, 0.5) == "old"


Call = tuple[str, int, int, float, float]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["place", "place", "place", "discard", "evict"]),
            st.integers(0, 19),
            ranks,
            st.integers(0, 2),
            st.integers(0, 2),
        ),
        max_size=60,
    ),
    alphas,
)
def test_the_same_calls_give_the_same_choices(calls: list[Call], alpha: float) -> None:
    """Ties included: owners that hash by their address decide nothing."""
    assert _choices(calls, alpha, lambda _number: object()) == _choices(
        calls, alpha, lambda number: f"owner {number}"
    )


def _choices(calls: list[Call], alpha: float, owner_of: Callable[[int], Any]) -> list[int | None]:
    owners = [owner_of(number) for number in range(20)]
    ranked: Ranked[Any] = ranked_tables(_RANKS)
    chosen: list[int | None] = []
    for name, number, rank, recency, efficiency in calls:
        if name == "place":
            ranked.put(rank, owners[number], recency, efficiency)
        elif name == "discard":
            ranked.discard(owners[number])
        else:
            victim = least_useful(ranked, alpha)
            chosen.append(None if victim is None else owners.index(victim))
            ranked.discard(victim)
    return chosen
