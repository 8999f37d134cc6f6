"""Configs of small models whose slots have more than a recurrent state, for SGLang's pools."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.configs import lfm2, qwen3_next, zaya
from sglang.srt.configs.lfm2 import Lfm2Config
from sglang.srt.configs.qwen4_exp import Qwen4ExpTextConfig
from sglang.srt.configs.zaya import ZayaConfig
from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator
from sglang.srt.mem_cache.memory_pool import HybridReqToTokenPool

EOS = 5


def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang's config classes ask how many there are."""
    parallel = SimpleNamespace(tp_size=1, attn_tp_size=1)
    for module in (lfm2, qwen3_next, zaya):
        monkeypatch.setattr(module, "get_parallel", lambda: parallel)
    monkeypatch.setattr(qwen3_next, "linear_attn_tp_size", lambda: 1)


def qwen4_exp(**ple: Any) -> Qwen4ExpTextConfig:
    return Qwen4ExpTextConfig(
        hidden_size=32,
        num_hidden_layers=4,
        layer_types=["linear_attention"] * 3 + ["full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=40,
        hc_count=2,
        eos_token_id=EOS,
        **ple,
    )


# The second layer and the last, which has no recurrent state.
PLE = {"ple_layer_ids": [2, 4], "ngram_size": 3, "ple_conv_kernel_size": 4}
ZAYA = ZayaConfig(num_hidden_layers=4, hidden_size=96, head_dim=16)
LFM2 = Lfm2Config(hidden_size=64, layer_types=["conv", "full_attention", "conv"])


def configurator(config: Any) -> Any:
    """What SGLang sizes and builds its pools with, as far as it is asked here."""
    sized = SimpleNamespace(
        mambaish_config=config,
        layer_info=SimpleNamespace(start_layer=0, end_layer=config.num_hidden_layers),
        attn_dp_size=1,
        _calculate_mamba_ratio=lambda: 1,
    )
    sized._get_ple_req_pool_kwargs = lambda: KVCacheConfigurator._get_ple_req_pool_kwargs(
        sized  # type: ignore[arg-type]
    )
    return sized


def request_pool(config: Any, slots: int) -> HybridReqToTokenPool:
    """With ``slots`` for states, and one that nobody has."""
    params = config.mamba2_cache_params
    return HybridReqToTokenPool(
        size=2,
        mamba_size=slots,
        mamba_spec_state_size=2,
        max_context_len=8,
        device="cpu",
        enable_memory_saver=False,
        cache_params=params,
        mamba_layer_ids=params.layers,
        enable_mamba_extra_buffer=True,
        **configurator(config)._get_ple_req_pool_kwargs(),
    )
