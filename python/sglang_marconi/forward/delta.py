"""GDN's and KDA's recurrent states, from the last one that their kernel leaves before a place.

Most kernels for prompts return the states before each 64 tokens of a row. From there, the same
kernel is run over the at most 63 tokens that remain, for all places of a pass in one call. Where a
kernel returns none, it is run from the row's beginning, and from place to place.

Triton's kernels return states in the precision of the keys. With keys in bfloat16 a state is then
rounded to 8 bits before the tokens that remain, where that of a prefill which ends there is not:
it is off by up to 2^-9 of itself, as the states are that SGLang tracks for GDN. KDA's kernel also
writes one state of each row in float32, which a place is given if SGLang does not track any.
Places in the first 64 tokens of a row, and those of kernels that return nothing, or
checkpoints in the precision of the pool, are not rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sglang_marconi.forward.layers import RECURRENT
from sglang_marconi.forward.pieces import Packed, in_rounds, integers, move_on
from sglang_marconi.forward.plan import PassPlan, current

CHUNK_TOKENS = 64
"""Tokens between the states that the kernels return (``FLA_CHUNK_SIZE``)."""

# What of a call is the layer's, and not about which tokens there are or what SGLang tracks.
_OF_LAYER = ("A_log", "dt_bias", "lower_bound", "beta_is_raw", "layer_id", "is_spec_decode")


class _Grid(NamedTuple):
    """Which states a kernel returns: ``[1, count, HV, V, K]``, one row after the other.

    Those before each ``every`` tokens of a row, or ``behind`` each whole ``every`` of them.
    """

    every: int = CHUNK_TOKENS
    behind: bool = False

    def firsts(self, plan: PassPlan) -> list[int]:
        """Where the states of each row begin, and how many there are."""
        short = 0 if self.behind else self.every - 1
        return list(accumulate(((r.tokens + short) // self.every for r in plan.rows), initial=0))

    def last_before(self, plan: PassPlan, number: int) -> int:
        """Which is the last one before a place, which has ``every`` tokens before it."""
        row, tokens = plan.places[number]
        return self.firsts(plan)[row] + tokens // self.every - self.behind


class _Call(NamedTuple):
    """A call of ``extend``, which can be repeated for other tokens."""

    original: Callable[..., Any]
    dispatcher: Any
    inputs: tuple[Tensor, Tensor, Tensor, Tensor]
    options: dict[str, Any]

    def again(self, packed: Packed) -> None:
        """Move the states of packed pieces on."""
        k, v, g, beta = (each.index_select(1, packed.tokens) for each in self.inputs)
        # Queries do not change a state, and nobody reads what they give.
        self.original(
            self.dispatcher,
            k,
            k,
            v,
            g,
            beta,
            ssm_states=packed.states,
            cache_indices=packed.slots,
            query_start_loc=packed.bounds,
            extend_seq_lens_cpu=packed.lengths,
            **{name: value for name, value in self.options.items() if name in _OF_LAYER},
        )


def take_gdn(
    original: Callable[..., Any],
    dispatcher: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    **options: Any,
) -> Any:
    """Around ``GDNKernelDispatcher.extend``: output, last states or None, states on a grid."""
    plan = current()
    if plan is not None and "inplace_update" in options:
        # Prompts of several items are computed in other pieces than a plan knows.
        plan.decline()
    if plan is None or plan.declined or not plan.covers(k.shape[1]):
        return original(dispatcher, q, k, v, g, beta, **options)
    call = _Call(original, dispatcher, (k, v, g, beta), options)
    grid = _Grid()
    asked: dict[str, Any] = {}
    if dispatcher.extend_uses_state_checkpoints:
        if not options.get("num_state_checkpoints"):
            asked = _checkpoints(plan, v)
        every = (options | asked).get("state_checkpoint_every_n_tokens")
        grid = _Grid(every or CHUNK_TOKENS, behind=True)
    states = _before(plan, options)
    result = original(dispatcher, q, k, v, g, beta, **options | asked)
    output, last, on_grid = result
    _put(plan, call, states, grid, on_grid)
    return (output, last, None) if asked else result


def take_kda(
    original: Callable[..., Any],
    dispatcher: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    **options: Any,
) -> Any:
    """Around ``KDAKernelDispatcher.extend``: output, and the states on a grid if asked for."""
    plan = current()
    if plan is None or not plan.covers(k.shape[1]):
        return original(dispatcher, q, k, v, g, beta, **options)
    call = _Call(original, dispatcher, (k, v, g, beta), options)
    asked: dict[str, Any] = {}
    tracked = _first_of_rows(plan)
    # Other kernels would be replaced by this one, if they were asked: another computation.
    if tracked and _is_triton(dispatcher, options, q):
        asked["return_intermediate_states"] = True
        if options.get("track_state") is None:
            asked |= _snapshot(plan, tracked, options)
    states = _before(plan, options)
    result = original(dispatcher, q, k, v, g, beta, **options | asked)
    on_grid = result[1] if isinstance(result, tuple) else None
    _put(plan, call, states, _Grid(), on_grid, tracked, asked.get("track_state"))
    return result if options.get("return_intermediate_states") or not asked else result[0]


def _put(
    plan: PassPlan,
    call: _Call,
    states: Tensor,
    grid: _Grid,
    on_grid: Tensor | None,
    tracked: list[int] | None = None,
    snapshot: Tensor | None = None,
) -> None:
    """Write the states at all places.

    Args:
        states: ``[places, HV, V, K]``, those before the pass of the rows that places are in.
        on_grid: the states that the kernel has returned.
        tracked: places whose chunk's state is also in ``snapshot`` ``[rows, HV, V, K]``.
    """
    known: dict[int, int] = {}
    # Some kernels return nothing, or nothing but what SGLang tracks.
    if on_grid is not None and on_grid.shape[1] == grid.firsts(plan)[-1]:
        reached = (tokens // grid.every * grid.every for _, tokens in plan.places)
        known = dict(enumerate(reached))
        beyond = [n for n, tokens in known.items() if tokens]
        if beyond:
            at = integers(plan, [grid.last_before(plan, n) for n in beyond], on_grid)
            states[integers(plan, beyond, states)] = on_grid[0, at].to(states.dtype)
        if tracked and snapshot is not None:
            rows = integers(plan, [plan.places[n].row for n in tracked], states)
            states[integers(plan, tracked, states)] = snapshot[rows].to(states.dtype)
    slots = call.options["cache_indices"]
    for pieces in in_rounds(plan, known):
        move_on(plan, pieces, states, call.again, slots.dtype)
    plan.put(RECURRENT, plan.layer_id, states, plan.layer.temporal)


def _before(plan: PassPlan, options: dict[str, Any]) -> Tensor:
    slots: Tensor = options["cache_indices"]
    slots = slots[plan.rows_of_places(slots)]
    states: Tensor = options["ssm_states"][slots.long()]
    return states


def _checkpoints(plan: PassPlan, like: Tensor) -> dict[str, Any]:
    """What FlashInfer's kernel for GDN is asked for states with, as SGLang does to track."""
    firsts = _Grid(behind=True).firsts(plan)
    return {
        "state_checkpoint_cu_starts": integers(plan, firsts, like),
        "num_state_checkpoints": firsts[-1],
        "state_checkpoint_every_n_tokens": CHUNK_TOKENS,
    }


def _snapshot(plan: PassPlan, tracked: list[int], options: dict[str, Any]) -> dict[str, Any]:
    """What KDA's kernel is asked for one state of each row in float32 with."""
    pool = options["ssm_states"]
    chunks = [-1] * (len(options["query_start_loc"]) - 1)
    for number in tracked:
        row, tokens = plan.places[number]
        chunks[row] = tokens // CHUNK_TOKENS
    return {
        "track_state": pool.new_empty(len(chunks), *pool.shape[1:], dtype=torch.float32),
        "track_chunk_idx": integers(plan, chunks, pool),
    }


def _first_of_rows(plan: PassPlan) -> list[int]:
    """The first place of each row that has a chunk before it."""
    beyond = [n for n, (_, tokens) in enumerate(plan.places) if tokens >= CHUNK_TOKENS]
    return list({plan.places[n].row: n for n in reversed(beyond)}.values())[::-1]


def _is_triton(dispatcher: Any, options: dict[str, Any], q: Tensor) -> bool:
    rows = len(options["query_start_loc"]) - 1
    kernel = dispatcher.effective_extend_kernel(options.get("lower_bound"), q.shape[1], rows)
    return kernel is dispatcher.triton_kernel
