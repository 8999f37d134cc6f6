"""The numbers behind ``sglang-marconi explain``."""

from __future__ import annotations

import msgspec

from sglang_marconi.cost import ENCODINGS, ModelCost
from sglang_marconi.cost.latency import LatencyProfile
from sglang_marconi.cost.sglang_pools import divide_pools

_SHORTEST_HIT = 1024


class NothingToCheckpointError(ValueError):
    """The model has no recurrent layers."""


class Fit(msgspec.Struct, frozen=True):
    """What a budget holds; ``None`` where a model stores nothing of the kind.

    Attributes:
        checkpoints: with nothing beside them.
        kv_tokens: with nothing beside them.
        contexts: the KV of whole contexts, with a checkpoint at the end of each.
        pool_checkpoints: slots of SGLang's pool of states.
        pool_kv_tokens: tokens of SGLang's pool of KV.
        pool_contexts: contexts with a checkpoint each in these two pools.
    """

    checkpoints: int
    kv_tokens: int | None
    contexts: int
    pool_checkpoints: int
    pool_kv_tokens: int | None
    pool_contexts: int


class Hit(msgspec.Struct, frozen=True):
    """A hit on a prefix of a prompt as long as the context.

    Attributes:
        tokens: length of the prefix.
        kv_bytes: of the prefix alone; a checkpoint at its end comes on top.
        flops_saved: of the prefill, on one rank.
        share_saved: of the whole prompt's prefill FLOPs.
        seconds_saved: of the time to first token; ``None`` without a latency profile.
    """

    tokens: int
    kv_bytes: int
    flops_saved: float
    share_saved: float
    seconds_saved: float | None


class Explanation(msgspec.Struct, frozen=True):
    """All about a model's cache; bytes and FLOPs are those of one tensor-parallel rank.

    Attributes:
        encoded_bytes: of a checkpoint, in each encoding that a store may demote it to.
        tokens_per_state: the tokens whose KV takes as much as one checkpoint; ``None``
            without KV.
        break_even_tokens: the shortest prefix whose KV takes at least as much as a
            checkpoint. It differs from ``tokens_per_state`` where attention has windows;
            ``None`` where no prefix up to the context is as long.
    """

    model: str
    budget_bytes: int
    context_tokens: int
    state_bytes: int
    encoded_bytes: dict[str, int]
    kv_bytes_per_token: int
    tokens_per_state: float | None
    break_even_tokens: int | None
    fit: Fit
    hits: list[Hit]


def explain(
    model: str,
    cost: ModelCost,
    *,
    budget_bytes: int,
    context_tokens: int,
    ratio: float,
    latency: LatencyProfile | None = None,
) -> Explanation:
    """Work out the numbers; ``ratio`` is SGLang's ``--mamba-full-memory-ratio``.

    Raises:
        NothingToCheckpointError: the model has no recurrent layers.
    """
    if cost.state_bytes == 0:
        raise NothingToCheckpointError(
            f"{model} has no recurrent layers: its KV is reusable at any token, "
            "and there is nothing to checkpoint"
        )
    per_token = cost.kv_bytes_per_token
    return Explanation(
        model=model,
        budget_bytes=budget_bytes,
        context_tokens=context_tokens,
        state_bytes=cost.state_bytes,
        encoded_bytes={name: cost.encoded_state_bytes(name) for name in ENCODINGS},
        kv_bytes_per_token=per_token,
        tokens_per_state=cost.state_bytes / per_token if per_token else None,
        break_even_tokens=_break_even(cost, context_tokens),
        fit=_fit(cost, budget_bytes, context_tokens, ratio),
        hits=[_hit(cost, tokens, context_tokens, latency) for tokens in _lengths(context_tokens)],
    )


def _fit(cost: ModelCost, budget: int, context: int, ratio: float) -> Fit:
    pools = divide_pools(budget, cost, ratio=ratio)
    slots = pools.state_slots or 0
    kv_of_context = cost.kv_bytes(context)
    return Fit(
        checkpoints=budget // cost.state_bytes,
        kv_tokens=budget // cost.kv_bytes_per_token if cost.kv_bytes_per_token else None,
        contexts=budget // (cost.state_bytes + kv_of_context),
        pool_checkpoints=slots,
        pool_kv_tokens=pools.kv_tokens,
        pool_contexts=slots if pools.kv_tokens is None else min(slots, pools.kv_tokens // context),
    )


def _hit(cost: ModelCost, tokens: int, context: int, latency: LatencyProfile | None) -> Hit:
    saved = cost.prefill_flops(0, tokens)
    return Hit(
        tokens=tokens,
        kv_bytes=cost.kv_bytes(tokens),
        flops_saved=saved,
        share_saved=saved / cost.prefill_flops(0, context),
        seconds_saved=(
            None if latency is None else latency.ttft(context) - latency.ttft(context - tokens)
        ),
    )


def _lengths(context: int) -> list[int]:
    """Powers of two, and the whole context."""
    lengths = []
    tokens = _SHORTEST_HIT
    while tokens < context:
        lengths.append(tokens)
        tokens *= 2
    return [*lengths, context]


def _break_even(cost: ModelCost, context: int) -> int | None:
    if cost.kv_bytes(context) < cost.state_bytes:
        return None
    low, high = 0, context
    while high - low > 1:
        middle = (low + high) // 2
        if cost.kv_bytes(middle) < cost.state_bytes:
            low = middle
        else:
            high = middle
    return high
