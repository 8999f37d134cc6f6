"""JetBlock's states: windows of its convolution, and its recurrence stopped at the places.

The kernel of the recurrence goes token by token, so that a row which is run from place to place is
answered as one that is run at once. (`sglang_marconi.cpu.gdn` takes 64 tokens at a time, and where
a row is stopped changes its last digits.)
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from torch import Tensor

from sglang_marconi.forward.layers import RECURRENT, window
from sglang_marconi.forward.pieces import Packed, Piece, integers, move_on
from sglang_marconi.forward.plan import PassPlan, current
from sglang_marconi.forward.windows import windows_at


def take_jet_windows(
    original: Callable[..., Any], layer: Any, x: Tensor, *, conv_state: Tensor, **options: Any
) -> Any:
    """Around ``DynamicShortConvolution.forward``, which is given the windows of all rows."""
    plan = current()
    if plan is not None and plan.covers(len(x)):
        into = plan.layer.conv[0]
        # The pool has room for the queries and keys of a convolution that takes these, too.
        into = into[..., into.shape[-2] - x.shape[1] :, :]
        taken = windows_at(plan, x.__getitem__, conv_state.__getitem__)
        plan.put(window(), plan.layer_id, taken, into)
    return original(layer, x, conv_state=conv_state, **options)


def take_jet(
    original: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    initial_state_source: Tensor,
    initial_state_indices: Tensor,
    cu_seqlens: Tensor,
    **options: Any,
) -> Tensor:
    """Around ``fused_recurrent_gated_delta_rule_update``, by which a JetBlock decodes as well."""
    plan = current()
    pool, slots = initial_state_source, initial_state_indices

    def call(inputs: tuple[Tensor, ...], states: Tensor, at: Tensor, bounds: Tensor) -> Tensor:
        return original(
            *inputs,
            initial_state_source=states,
            initial_state_indices=at,
            cu_seqlens=bounds,
            **options,
        )

    if plan is None or not plan.covers(k.shape[1]):
        return call((q, k, v, g, beta), pool, slots, cu_seqlens)
    # In float32 from place to place, as the kernel keeps it, whatever the pool has.
    of_rows = slots[: len(plan.rows)].long()
    rows = pool[of_rows].float()
    taken = rows[plan.rows_of_places(slots)]
    output = q.new_zeros(v.shape)

    def run(packed: Packed) -> None:
        inputs = tuple(each.index_select(1, packed.tokens) for each in (q, k, v, g, beta))
        piece = call(inputs, packed.states, packed.slots, packed.bounds)
        output.index_copy_(1, packed.tokens, piece)

    for pieces, reached in _to_next_places(plan):
        move_on(plan, pieces, rows, run, slots.dtype)
        if reached:
            at = integers(plan, [plan.places[n].row for n in reached], rows)
            taken[integers(plan, reached, rows)] = rows[at]
    pool[of_rows] = rows.to(pool.dtype)
    plan.put(RECURRENT, plan.layer_id, taken, plan.layer.temporal)
    return output


def _to_next_places(plan: PassPlan) -> list[tuple[list[Piece], list[int]]]:
    """Rounds that take every row to its next place, and in the end to its last token.

    Returns:
        Of each round its pieces, whose states are the rows', and the places that it reaches.
    """
    rounds: list[tuple[list[Piece], list[int]]] = []
    for row, (tokens, _) in enumerate(plan.rows):
        stops = [n for n, place in enumerate(plan.places) if place.row == row]
        start = plan.starts[row]
        edges = [start, *(start + plan.places[n].tokens for n in stops), start + tokens]
        for turn, (begin, end) in enumerate(pairwise(edges)):
            if turn == len(rounds):
                rounds.append(([], []))
            pieces, reached = rounds[turn]
            pieces.append(Piece(row, row, begin, end))
            reached += stops[turn : turn + 1]
    return rounds
