"""Passes over prompts with places in them, and what a state at a place has to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from sglang_marconi.forward.layers import RECURRENT
from sglang_marconi.forward.plan import PassPlan, Place, Row, carried_out
from torch import Tensor

from support.delta_reference import largest_error

CLOSE = 1e-5
"""Of the largest value of a state, what one taken inside a pass may differ by."""


class Planned(NamedTuple):
    """The rows of a pass, and where states are taken."""

    rows: list[Row]
    places: list[Place]

    @property
    def bounds(self) -> Tensor:
        """int32 ``[rows + 1]``."""
        lengths = [0, *(row.tokens for row in self.rows)]
        return torch.tensor(lengths).cumsum(0).int()

    @property
    def resumes(self) -> Tensor:
        return torch.tensor([row.resumes for row in self.rows])

    @property
    def slots(self) -> Tensor:
        """int32 ``[rows]``, in no order."""
        count = len(self.rows)
        return torch.randperm(count, generator=torch.Generator().manual_seed(count)).int()


MANY = Planned(
    [Row(130, True), Row(64, False), Row(300, False), Row(1, True), Row(1, True)],
    [
        *(Place(0, tokens) for tokens in (1, 63, 64, 65, 129)),
        *(Place(1, tokens) for tokens in (31, 63)),
        *(Place(2, tokens) for tokens in (128, 200, 255, 299)),
    ],
)
"""Several places in a row: first and last tokens, edges of chunks, and beside them."""

# In a pass: `(inputs, pool, planned)`, inputs `[tokens, ...]` each. The pool moves on in place.
Operation = Callable[[Sequence[Tensor], Tensor, Planned], Tensor]


@st.composite
def passes(draw: st.DrawFn, longest: int = 300, most: int = 3) -> Planned:
    """Prompts, behind them rows that decode a token; places anywhere, at edges most of all."""
    edges = [n for n in (1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 192, 256) if n <= longest]
    lengths = st.sampled_from(edges[1:]) | st.integers(2, longest)
    rows = [
        Row(tokens, draw(st.booleans()))
        for tokens in draw(st.lists(lengths, min_size=1, max_size=most))
    ]
    places: list[Place] = []
    for number, (tokens, _) in enumerate(rows):
        likely = [n for n in (*edges, tokens - 2, tokens - 1) if 1 <= n < tokens]
        chosen = draw(st.sets(st.sampled_from(likely) | st.integers(1, tokens - 1), max_size=5))
        places += [Place(number, at) for at in sorted(chosen)]
    rows += [Row(1, True)] * draw(st.integers(0, 2))
    return Planned(rows, places or [Place(0, 1)])


def take(
    operation: Operation, inputs: Sequence[Tensor], pool: Tensor, planned: Planned
) -> tuple[Tensor, Tensor]:
    """Run a pass with its plan, the pool in place; the output, and the states at its places."""
    first = len(pool) - len(planned.places)
    slots = [torch.tensor([first + n]) for n in range(len(planned.places))]
    plan = PassPlan(planned.rows, planned.places, slots)
    plan.at_layer(3, SimpleNamespace(temporal=pool))
    with carried_out(plan):
        output = operation(inputs, pool, planned)
    assert not plan.missing(iter([(RECURRENT, 3)]))
    return output, pool[first:]


def alone(
    operation: Operation, inputs: Sequence[Tensor], pool: Tensor, planned: Planned, place: Place
) -> Tensor:
    """The state of a prefill that ends at a place."""
    row = planned.rows[place.row]
    begin = int(planned.bounds[place.row])
    # One row has slot 0.
    own = pool[planned.slots[place.row].long()][None].clone()
    prefix = Planned([Row(place.tokens, row.resumes)], [])
    operation([each[begin : begin + place.tokens] for each in inputs], own, prefix)
    return own[0]


def take_beside_nothing(
    operation: Operation,
    inputs: Sequence[Tensor],
    sizes: tuple[int, ...],
    planned: Planned,
    changes: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Run a pass with its plan, and check that it computes else what it does without one.

    Args:
        inputs: ``[tokens, ...]`` of the pass.
        sizes: of a state.
        changes: what output and states of the rows may differ by, of their largest value.

    Returns:
        The pool before the pass, and the states at the places.
    """
    generator = torch.Generator().manual_seed(11)
    rows, places = len(planned.rows), len(planned.places)
    before = torch.randn(rows + 1 + places, *sizes, generator=generator) * 2
    plain, pool = before.clone(), before.clone()
    wanted = operation(inputs, plain, planned)
    output, states = take(operation, inputs, pool, planned)
    if changes:
        assert largest_error(output, wanted) < changes
        assert largest_error(pool[:rows], plain[:rows]) < changes
    else:
        assert torch.equal(output, wanted)
        assert torch.equal(pool[:rows], plain[:rows])
    assert torch.equal(pool[rows], before[rows])
    return before, states


def check(
    operation: Operation,
    inputs: Sequence[Tensor],
    sizes: tuple[int, ...],
    planned: Planned,
    changes: float = 0.0,
) -> None:
    """`take_beside_nothing`, and the states at the places are those of prefills that end there."""
    before, states = take_beside_nothing(operation, inputs, sizes, planned, changes)
    for state, place in zip(states, planned.places, strict=True):
        error = largest_error(state, alone(operation, inputs, before, planned, place))
        assert error < CLOSE, (place, error)
