"""How SGLang divides memory into recurrent states and KV."""

from __future__ import annotations

from typing import NamedTuple

from sglang_marconi.cost import ModelCost

# SGLang's default of --mamba-full-memory-ratio: bytes of states for each byte of KV.
SGLANG_RATIO = 0.9


class Pools(NamedTuple):
    """What SGLang's two pools hold; ``None`` where a model stores nothing of the kind."""

    state_slots: int | None
    kv_tokens: int | None


def divide_pools(
    total_bytes: int,
    cost: ModelCost,
    *,
    ratio: float = SGLANG_RATIO,
    state_slots: int | None = None,
    max_tokens: int | None = None,
) -> Pools:
    """Divide memory as SGLang does it for a hybrid model without speculative decoding.

    States get their share first, of which one slot is padding; KV gets the rest.

    Args:
        total_bytes: for both pools; too few for one slot leave none, as does a negative number.
        cost: what a state and a token take.
        ratio: ``--mamba-full-memory-ratio``.
        state_slots: ``--max-mamba-cache-size``, which replaces the ratio.
        max_tokens: ``--max-total-tokens``.
    """
    if cost.state_bytes == 0:
        return Pools(None, _tokens(total_bytes, cost, max_tokens))
    if state_slots is None:
        share = int(total_bytes * ratio / (1 + ratio))
        state_slots = max(0, share // cost.state_bytes - 1)
    rest = total_bytes - (state_slots + 1) * cost.state_bytes
    return Pools(state_slots, _tokens(rest, cost, max_tokens))


def _tokens(room: int, cost: ModelCost, most: int | None) -> int | None:
    if cost.kv_bytes_per_token == 0:
        return None
    fitting = max(0, room) // cost.kv_bytes_per_token
    return fitting if most is None else min(fitting, most)
