"""FLOPs and bytes of a prefix on this server: formulas from the config, bytes from the pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang_marconi.cache.slot_states import slot_bytes
from sglang_marconi.compatibility import UnsupportedConfiguration
from sglang_marconi.cost import ModelCost, UnsupportedModelError, from_config, token_length_cost

if TYPE_CHECKING:
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams

    from sglang_marconi.cache.checkpoint_pool import CheckpointPool
    from sglang_marconi.settings.schema import Settings


def price_config(hf_config: Any, settings: Settings, *, tp_size: int) -> ModelCost:
    """The cost of a model by its Hugging Face config, on one of ``tp_size`` ranks.

    Raises:
        UnsupportedConfiguration: a layer has no formula; the message names it.
    """
    if settings.cost == "tokens":
        # One state weighs as much as one token; the pools say how much both really are.
        return token_length_cost(state_bytes=1, kv_bytes_per_token=1)
    try:
        return from_config(hf_config, tp_size=tp_size)
    except UnsupportedModelError as error:
        raise UnsupportedConfiguration(
            f"--radix-cache-backend marconi: {error}. To count tokens, pass "
            """--radix-eviction-policy-config '{"cost": "tokens"}'."""
        ) from error


def with_pools(cost: ModelCost, params: CacheInitParams) -> ModelCost:
    """The same FLOPs, with the bytes that a state and a token take in this server's pools.

    Raises:
        UnsupportedConfiguration: the pool of KV does not say what it takes.
    """
    pool = params.req_to_token_pool
    state_bytes = slot_bytes(pool.mamba_pool)
    if pool.mamba_ckpt_pool is None:
        # A slot has a ring of ReplaySSM's, too; it holds nothing of a checkpoint, but goes with it.
        states = pool.mamba_pool.mamba_cache
        rings = (states.replayssm_d, states.replayssm_k, states.replayssm_g)
        # Layers come first, slots second.
        state_bytes += sum(ring.nbytes // ring.shape[1] for ring in rings if ring is not None)
    kv_bytes = params.token_to_kv_pool_allocator.get_kvcache().get_kv_size_bytes()
    if isinstance(kv_bytes, tuple):
        kv_bytes = sum(kv_bytes)
    kv_bytes_per_token = int(kv_bytes) // params.token_to_kv_pool_allocator.size
    if not kv_bytes_per_token:
        kind = type(params.token_to_kv_pool_allocator.get_kvcache()).__name__
        raise UnsupportedConfiguration(
            f"--radix-cache-backend marconi: {kind} does not say how many bytes a token of KV "
            "takes, by which the eviction policy goes"
        )
    return cost.with_pool_bytes(state_bytes=state_bytes, kv_bytes_per_token=kv_bytes_per_token)


def checkpoint_bytes(params: CacheInitParams, cost: ModelCost) -> int:
    """Bytes on the device that checkpoints may fill, some in use by requests without a store."""
    pool: CheckpointPool | None = params.req_to_token_pool.mamba_ckpt_pool
    if pool is not None:
        return pool.num_slots * pool.store.layout.page_bytes
    return int(params.req_to_token_pool.mamba_allocator.size) * cost.state_bytes
