"""Lightning attention's recurrent states, from one that its kernel leaves in each row.

The kernel writes a row's state at an edge of its blocks to a slot, in the precision of the pool.
From there it is run over the at most 31 tokens that remain; the other places of a row follow from
place to place. Where SGLang tracks a state itself, a row's first place follows from its beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sglang_marconi.forward.layers import RECURRENT
from sglang_marconi.forward.pieces import Packed, in_rounds, integers, move_on
from sglang_marconi.forward.plan import PassPlan, current

BLOCK_TOKENS = 32
"""Tokens of a row that the kernel takes at a time (``BLOCK``)."""


def take_lightning(
    original: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor,
    decay_scales: Tensor,
    meta: Any,
    **options: Any,
) -> Tensor:
    """Around ``seg_la_fwd``, of which a pass over prompts calls one of several kernels."""
    plan = current()
    if plan is None or not plan.covers(len(k)):
        return original(q, k, v, s, decay_scales, meta, **options)
    rows = plan.rows_of_places(s)
    # Slots of rows that start anew have what others left in them.
    resumed = (meta.s_scales[rows] > 0)[:, None, None, None]
    states = torch.where(resumed, s[meta.s_offsets[rows].long()], 0.0).to(s.dtype)
    edges = _edges(plan) if options.get("track_lens") is None else {}
    asked = _tracking(plan, edges, meta.s_offsets) if edges else {}
    output = original(q, k, v, s, decay_scales, meta, **options | asked)
    if edges:
        at = integers(plan, list(edges), s)
        states[at] = s[plan.slots[at]]

    def run(packed: Packed) -> None:
        keys = k[packed.tokens]
        # Queries do not change a state, and nobody reads what they give.
        original(
            keys,
            keys,
            v[packed.tokens],
            packed.states,
            decay_scales,
            replace(
                meta,
                batch_size=len(packed.lengths),
                q_offsets=packed.bounds,
                s_offsets=packed.slots,
                q_lengths=packed.bounds.diff(),
                s_scales=torch.ones_like(packed.slots),
            ),
            softmax_scale=options.get("softmax_scale"),
        )

    for pieces in in_rounds(plan, edges):
        move_on(plan, pieces, states, run)
    plan.put(RECURRENT, plan.layer_id, states, plan.layer.temporal)
    return output


def _edges(plan: PassPlan) -> dict[int, int]:
    """Of each row the place that has most tokens between the one before it and the last edge of a
    block, and how many tokens the row has before that edge."""
    best: dict[int, tuple[int, int, int]] = {}
    before = {row: 0 for row, _ in plan.places}
    for number, (row, tokens) in enumerate(plan.places):
        edge = tokens // BLOCK_TOKENS * BLOCK_TOKENS
        saved = edge - before[row]
        if saved > best.get(row, (0,))[0]:
            best[row] = saved, number, edge
        before[row] = tokens
    return {number: edge for _, number, edge in best.values()}


def _tracking(plan: PassPlan, edges: dict[int, int], like: Tensor) -> dict[str, Tensor]:
    """What the kernel is asked for those states with: how many tokens, and into which slot."""
    lengths = [0] * len(plan.rows)
    for number, edge in edges.items():
        lengths[plan.places[number].row] = edge
    rows = integers(plan, [plan.places[number].row for number in edges], like)
    at = integers(plan, list(edges), like)
    targets = plan.tensor(
        "slots of edges",
        lambda: (
            torch.full_like(plan.slots[:1], -1)
            .repeat(len(lengths))
            .index_copy(0, rows, plan.slots[at])
        ),
    )
    name = f"tokens before edges {lengths}"
    return {
        "track_lens": plan.integers(name, lambda: lengths, like, torch.int32),
        "track_state_indices": targets,
    }
