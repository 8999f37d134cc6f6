"""Tokens of a pass that an operation is called for again, to bring states to a place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from sglang_marconi.forward.plan import PassPlan


class Piece(NamedTuple):
    """Tokens ``begin`` to ``end`` of a pass, and of some states the one before them and the one
    that is to be behind them."""

    source: int
    target: int
    begin: int
    end: int


class Packed(NamedTuple):
    """Pieces laid end to end, as operations take them.

    Attributes:
        tokens: int64 ``[tokens]``, where each is among those of the pass.
        bounds: ``[pieces + 1]``, where each piece begins.
        slots: ``[pieces]``, which of ``states`` each has: 0, 1, ...
        lengths: tokens of each piece, one at least.
        states: ``[pieces, ...]``, contiguous, to be moved on in place.
    """

    tokens: Tensor
    bounds: Tensor
    slots: Tensor
    lengths: list[int]
    states: Tensor


def move_on(
    plan: PassPlan,
    pieces: Sequence[Piece],
    states: Tensor,
    run: Callable[[Packed], None],
    dtype: torch.dtype = torch.int32,
) -> None:
    """Take states over pieces, all of them in one call.

    Args:
        states: ``[any, ...]``; the targets are written, which no two pieces share.
        run: moves the states of packed pieces on.
        dtype: of bounds and slots.
    """
    # Numbers go by what they are: another layer may be given other pieces.
    name = f"{list(map(tuple, pieces))} as {dtype}"
    lengths = [piece.end - piece.begin for piece in pieces]
    sources, targets = (
        integers(plan, [getattr(piece, field) for piece in pieces], states)
        for field in ("source", "target")
    )
    packed = Packed(
        plan.integers(
            f"tokens of {name}",
            lambda: [at for piece in pieces for at in range(piece.begin, piece.end)],
            states,
        ),
        plan.integers(
            f"bounds of {name}", lambda: list(accumulate(lengths, initial=0)), states, dtype
        ),
        plan.integers(f"slots of {name}", lambda: range(len(pieces)), states, dtype),
        lengths,
        states[sources],
    )
    run(packed)
    states[targets] = packed.states


def in_rounds(plan: PassPlan, known: Mapping[int, int]) -> list[list[Piece]]:
    """What is missing at the places, so that no piece needs a state of its own or a later round.

    Args:
        known: for numbers of some places, behind how many tokens of their row a state is there
            already, in their own stead. Another one goes on from the place before it in its row,
            and the first one of a row from where the row begins.
    """
    rounds: list[list[Piece]] = []
    row_before, before, ready = -1, 0, 0
    for number, (row, tokens) in enumerate(plan.places):
        if number in known or row != row_before:
            source, done, turn = number, known.get(number, 0), 0
        else:
            source, done, turn = before, plan.places[before].tokens, ready
        if done < tokens or source != number:
            if turn == len(rounds):
                rounds.append([])
            start = plan.starts[row]
            rounds[turn].append(Piece(source, number, start + done, start + tokens))
            turn += 1
        row_before, before, ready = row, number, turn
    return rounds


def integers(plan: PassPlan, numbers: Sequence[int], like: Tensor) -> Tensor:
    """int64, made once for all layers that need the same numbers."""
    return plan.integers(str(numbers), lambda: numbers, like)
