"""What a prefix costs on a server: formulas from its config, bytes from its pools."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from sglang.srt.mem_cache.ple_state_pool import NGramPool, ShortConvPool
from sglang.srt.mem_cache.unified_cache.components import ComponentType
from sglang.test.kits.unified_radix_cache import fixtures
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cache.pricing import price_config, with_pools
from sglang_marconi.compatibility import UnsupportedConfiguration
from sglang_marconi.cost import preset_config
from sglang_marconi.settings.schema import Settings


def test_a_model_without_a_formula_is_named_with_the_way_out() -> None:
    config = {"model_type": "novel"}
    with pytest.raises(UnsupportedConfiguration, match=r"'novel'.*\"cost\": \"tokens\""):
        price_config(config, Settings(), tp_size=1)
    cost = price_config(config, Settings(cost="tokens"), tp_size=1)
    assert cost.prefill_flops(10, 30) == 20


def test_a_layer_without_a_formula_is_named() -> None:
    config = dict(preset_config("nemotron-nano-9b-v2"))
    config["hybrid_override_pattern"] = "M?" + str(config["hybrid_override_pattern"])[2:]
    with pytest.raises(UnsupportedConfiguration, match=r"'\?'"):
        price_config(config, Settings(), tp_size=1)


CONFIG = CacheConfig(components=(ComponentType.FULL, ComponentType.MAMBA))


def build_pools(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A cache as SGLang builds it, and its allocator of KV."""
    monkeypatch.setattr(fixtures, "get_device", lambda: "cpu")
    cache, allocator, _pool = fixtures.build_fixture(CONFIG, tree_core_backend="python")
    return cache, allocator


@pytest.mark.parametrize("nothing", [0, (0, 0)])
def test_a_pool_that_does_not_say_what_it_takes_is_named(
    monkeypatch: pytest.MonkeyPatch, nothing: Any
) -> None:
    # As SGLang's pool of unified memory does.
    cache, allocator = build_pools(monkeypatch)
    monkeypatch.setattr(allocator.get_kvcache(), "get_kv_size_bytes", lambda: nothing)
    cost = price_config({}, Settings(cost="tokens"), tp_size=1)
    with pytest.raises(UnsupportedConfiguration, match="HybridLinearKVPool does not say"):
        with_pools(cost, cache.cache_init_params)


def test_bytes_are_those_of_the_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, allocator = build_pools(monkeypatch)
    cost = with_pools(price_config({}, Settings(cost="tokens"), tp_size=1), cache.cache_init_params)
    attention, recurrent = 6, 18
    heads, head_dim, state, conv = 2, 16, 16, 3
    channels = CONFIG.mamba_intermediate_size + 2 * state
    assert cost.state_bytes == recurrent * 2 * (heads * head_dim * state + channels * conv)
    kv_heads, kv_head_dim = 2, 64
    assert type(cost.kv_bytes_per_token) is int
    # The pool has one slot more than it gives out.
    exact = attention * 2 * kv_heads * kv_head_dim * 2
    assert exact <= cost.kv_bytes_per_token <= exact * (1 + 1 / allocator.size)


def test_a_slot_is_priced_with_its_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, _ = build_pools(monkeypatch)
    params = cache.cache_init_params
    cost = price_config({}, Settings(cost="tokens"), tp_size=1)
    without = with_pools(cost, params).state_bytes
    pool = params.req_to_token_pool.mamba_pool
    slots = pool.mamba_cache.temporal.shape[1]
    rings = {"d": torch.zeros(18, slots, 2, 16, 5), "g": torch.zeros(18, slots, 2, 16)}
    pool.mamba_cache = replace(
        pool.mamba_cache, **{f"replayssm_{name}": ring for name, ring in rings.items()}
    )
    assert with_pools(cost, params).state_bytes == without + 18 * 2 * 16 * (5 + 1) * 4
    # Not so where a checkpoint has pages of its own.
    monkeypatch.setattr(params.req_to_token_pool, "mamba_ckpt_pool", object())
    assert with_pools(cost, params).state_bytes == without


@pytest.mark.parametrize("store", [False, True])
def test_a_slot_is_priced_with_what_is_attached_to_it(
    store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, _ = build_pools(monkeypatch)
    params = cache.cache_init_params
    if store:
        monkeypatch.setattr(params.req_to_token_pool, "mamba_ckpt_pool", object())
    cost = price_config({}, Settings(cost="tokens"), tp_size=1)
    without = with_pools(cost, params).state_bytes
    states = params.req_to_token_pool.mamba_pool
    windows = ShortConvPool(
        size=states.size, state_shape=(8, 9), layer_ids=[1, 4], dtype=torch.bfloat16, device="cpu"
    )
    states.register_slot_state(windows)
    states.register_slot_state(
        NGramPool(size=states.size, context_len=2, eos_token_id=0, device="cpu")
    )
    assert with_pools(cost, params).state_bytes == without + 2 * 8 * 9 * 2 + 2 * 8
