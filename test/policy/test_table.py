"""A table, against a dict of its rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.policy.table import Table

_COLUMNS = 2

numbers = st.tuples(*[st.floats(allow_nan=False)] * _COLUMNS)
# What is put at an owner, or None where the owner's row goes.
calls = st.lists(st.tuples(st.integers(0, 20), numbers | st.none()), max_size=80)


def follow(rows: Table[int], sequence: list[tuple[int, tuple[float, ...] | None]]) -> None:
    for owner, row in sequence:
        if row is None:
            rows.discard(owner)
        else:
            rows.put(owner, *row)


def assert_holds(rows: Table[int], expected: dict[int, tuple[float, ...]]) -> None:
    assert len(rows) == len(expected)
    assert rows.columns.shape == (_COLUMNS, len(expected))
    held = dict(zip(rows.owners, rows.columns.T.tolist(), strict=True))
    assert held == {owner: list(row) for owner, row in expected.items()}


@given(calls)
def test_rows_hold_what_was_put_last(sequence: list[tuple[int, tuple[float, ...] | None]]) -> None:
    rows: Table[int] = Table(_COLUMNS)
    expected: dict[int, tuple[float, ...]] = {}
    for owner, row in sequence:
        follow(rows, [(owner, row)])
        if row is None:
            expected.pop(owner, None)
        else:
            expected[owner] = row
        assert rows.get(owner) == (None if row is None else list(row))
        assert_holds(rows, expected)


@given(st.integers(1, 500), st.lists(st.integers(0, 499)))
def test_rows_grow_and_shrink(count: int, gone: list[int]) -> None:
    rows: Table[int] = Table(_COLUMNS)
    owners = list(range(count))
    expected = {owner: (float(owner), -float(owner)) for owner in owners}
    follow(rows, list(expected.items()))
    assert_holds(rows, expected)
    for pick in gone:
        follow(rows, [(owners[pick % count], None)])
        expected.pop(owners[pick % count], None)
    assert_holds(rows, expected)


@given(calls)
def test_the_order_of_rows_depends_on_the_calls_alone(
    sequence: list[tuple[int, tuple[float, ...] | None]],
) -> None:
    """Not on where owners lie in memory, nor on their hashes."""
    owners = [object() for _ in range(21)]
    named: Table[int] = Table(_COLUMNS)
    placed: Table[object] = Table(_COLUMNS)
    follow(named, sequence)
    for owner, row in sequence:
        if row is None:
            placed.discard(owners[owner])
        else:
            placed.put(owners[owner], *row)
    assert placed.owners == [owners[owner] for owner in named.owners]


def test_columns_may_be_written_to() -> None:
    rows: Table[str] = Table(_COLUMNS)
    for owner in ("a", "b", "c"):
        rows.put(owner, 1.0, 2.0)
    rows.discard("a")
    rows.columns[1] = 5.0
    assert (rows.get("b"), rows.get("c")) == ([1.0, 5.0], [1.0, 5.0])
    assert rows.get("a") is None


@given(calls, st.sets(st.integers(0, 80)))
def test_an_extent_is_that_of_the_rows_whenever_it_is_asked_for(
    sequence: list[tuple[int, tuple[float, ...] | None]], asked: set[int]
) -> None:
    table: Table[int] = Table(_COLUMNS)
    for number, call in enumerate(sequence):
        follow(table, [call])
        if number in asked and len(table):
            for at, column in enumerate(table.columns.tolist()):
                assert table.extent(at) == (min(column), max(column))
                least = table.get(table.owner_of_least(at))
                assert least is not None and least[at] == min(column)
