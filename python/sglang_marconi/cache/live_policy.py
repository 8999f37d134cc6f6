"""The eviction policy that a server's settings ask for, and what tunes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sglang_marconi.cache.alpha_tuning import AlphaTuning
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.utility import PaperUtility
from sglang_marconi.tuning.messages import Setup

if TYPE_CHECKING:
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams

    from sglang_marconi.cache.checkpoint_pool import CheckpointPool
    from sglang_marconi.config import Settings
    from sglang_marconi.cost import ModelCost
    from sglang_marconi.observe.events import Observer

_UNTUNED = 0.0
"""As in the paper: LRU until tuned."""


class LivePolicy(NamedTuple):
    """``tuning`` changes the policy while serving, if anything does."""

    eviction: EvictionPolicy
    tuning: AlphaTuning | None = None


def live_policy(
    settings: Settings,
    cost: ModelCost,
    params: CacheInitParams,
    observer: Observer | None = None,
) -> LivePolicy:
    """The policy of the cache to be built from ``params``; ``cost`` has its pools' bytes.

    A policy to be tuned starts a tuner process on the first rank.
    """
    pool: CheckpointPool | None = params.req_to_token_pool.mamba_ckpt_pool
    forms = None if pool is None else pool.store.forms
    if settings.policy == "auto":
        return LivePolicy(EvictionPolicy(cost, PredictedReuse(), forms))
    utility = PaperUtility(_UNTUNED if settings.alpha is None else settings.alpha)
    eviction = EvictionPolicy(cost, utility, forms)
    if settings.alpha is not None:
        return LivePolicy(eviction)
    setup = Setup(
        cost=cost,
        state_bytes=_state_bytes(params, cost),
        kv_bytes=params.token_to_kv_pool_allocator.size * cost.kv_bytes_per_token,
        alpha=utility.alpha,
        forms=() if forms is None else forms,
    )
    return LivePolicy(eviction, AlphaTuning(utility, setup, params.tp_cache_group, observer))


def _state_bytes(params: CacheInitParams, cost: ModelCost) -> int:
    """Bytes that checkpoints may fill."""
    pool: CheckpointPool | None = params.req_to_token_pool.mamba_ckpt_pool
    if pool is not None:
        return pool.num_slots * pool.store.layout.page_bytes
    return int(params.req_to_token_pool.mamba_allocator.size) * cost.state_bytes
