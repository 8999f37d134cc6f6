"""The plan of a pass: what it refuses, what it makes, and when it is the one in force."""

from __future__ import annotations

import pytest
import torch
from sglang_marconi.forward.plan import PassPlan, Place, Row, carried_out, current
from support.passes import SomePass

ROWS = [Row(4, True), Row(1, False), Row(6, False)]


def slots(count: int) -> list[torch.Tensor]:
    return [torch.tensor([10 + number]) for number in range(count)]


@pytest.mark.parametrize(
    "places",
    [
        [Place(0, 0)],
        [Place(0, 4)],
        [Place(1, 1)],
        [Place(2, 1), Place(0, 1)],
        [Place(0, 2), Place(0, 1)],
        [Place(0, 2), Place(0, 2)],
    ],
)
def test_places_are_inside_their_rows_in_order_and_once(places: list[Place]) -> None:
    with pytest.raises(AssertionError):
        PassPlan(ROWS, places, slots(len(places)))


def test_each_place_has_a_slot() -> None:
    with pytest.raises(AssertionError, match="one slot"):
        PassPlan(ROWS, [Place(0, 1)], slots(2))


def test_where_places_are_in_a_pass() -> None:
    plan = PassPlan(ROWS, [Place(0, 1), Place(0, 3), Place(2, 1), Place(2, 5)], slots(4))
    assert plan.starts == (0, 4, 5)
    assert plan.ends == [1, 3, 6, 10]
    assert plan.slots.tolist() == [10, 11, 12, 13]
    assert plan.rows_of_places(plan.slots).tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("seed", range(20))
def test_ends_are_those_of_prefixes(seed: int) -> None:
    some = SomePass.random(seed)
    plan = some.plan()
    assert plan.ends == [prefix.end for prefix in some.prefixes()]
    assert [plan.starts[row] for row, _ in plan.places] == [at.begin for at in some.prefixes()]


def test_a_pass_is_covered_by_as_many_tokens_and_more() -> None:
    plan = PassPlan(ROWS, [Place(0, 1)], slots(1))
    assert [tokens for tokens in range(9, 14) if plan.covers(tokens)] == [11, 12, 13]


def test_numbers_are_made_once() -> None:
    plan = PassPlan(ROWS, [Place(0, 1)], slots(1))
    asked = []

    def numbers() -> list[int]:
        asked.append(1)
        return [3, 1, 4]

    made = [plan.integers("some", numbers, torch.zeros(1), dtype=torch.int32) for _ in range(2)]
    assert made[0] is made[1]
    assert made[0].dtype == torch.int32
    assert made[0].tolist() == [3, 1, 4]
    assert len(asked) == 1


def test_a_plan_is_in_force_while_its_pass_runs() -> None:
    one, other = (PassPlan(ROWS, [Place(0, 1)], slots(1)) for _ in range(2))
    assert current() is None
    with carried_out(None):
        assert current() is None
    with pytest.raises(RuntimeError), carried_out(one):
        assert current() is one
        with carried_out(other):
            assert current() is other
        assert current() is one
        raise RuntimeError("the pass failed")
    assert current() is None
