"""Formulas against torch's count of transformers' own models: small, with random weights.

Recurrences are left out on both sides: transformers runs them in chunks, which takes more
arithmetic for the same result, and ``test_cost_layers`` counts them token by token.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from sglang_marconi.cost import from_config
from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.families import layers_of
from sglang_marconi.cost.layer import LayerCost
from sglang_marconi.cost.sparse import BlockIndexer
from sglang_marconi.cost.streams import HyperConnection, NGramEmbedding
from support.counted import counted_flops

ATTENTION = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 12,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
}
LATENT = {
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "q_lora_rank": 20,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 6,
    "v_head_dim": 10,
    "first_k_dense_replace": 1,
}
SHORT_CONVOLUTION = {
    "layer_types": ["conv", "full_attention"],
    "conv_L_cache": 3,
    "block_auto_adjust_ff_dim": False,
}
SHARED = {"shared_expert_intermediate_size": 40}
GROUPED = {"num_attention_heads": 6, "num_key_value_heads": 2}
SMALL = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

MODELS: dict[str, dict[str, Any]] = {
    "qwen3_next": SMALL | ATTENTION | EXPERTS | DELTA | SHARED,
    "qwen3_5_text": SMALL | ATTENTION | DELTA,
    "qwen3_5_moe_text": SMALL | ATTENTION | EXPERTS | DELTA | SHARED,
    "qwen4_exp_text": SMALL
    | ATTENTION
    | EXPERTS
    | DELTA
    | SHARED
    | {
        "hc_count": 3,
        "hc_lowrank": 10,
        "ple_layer_ids": [1],
        "ple_embed_dim": 32,
        "ple_conv_kernel_size": 4,
        "ngram_size": 3,
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 100,
        "indexer_n_heads": 3,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
    "kimi_linear": SMALL
    | EXPERTS
    | LATENT
    | {
        "qk_rope_head_dim": 4,
        "num_shared_experts": 1,
        "linear_attn_config": {
            "kda_layers": [1],
            "full_attn_layers": [2],
            "num_heads": 4,
            "head_dim": 8,
            "short_conv_kernel_size": 4,
        },
    },
    # Transformers does not absorb what it attends to: with these widths that costs as much.
    "glm5_next_text": SMALL
    | LATENT
    | {
        "layer_types": ["linear_attention", "indexed_attention"],
        "mlp_layer_types": ["dense", "sparse"],
        "qk_rope_head_dim": 0,
        "n_routed_experts": 5,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "hc_mult": 3,
        "linear_num_heads": 4,
        "linear_head_dim": 8,
        "linear_conv_kernel_dim": 4,
        "index_topk": 64,
        "index_head_dim": 16,
        "index_n_heads": 3,
        "index_kpool": 4,
    },
    "zaya": SMALL
    | ATTENTION
    | EXPERTS
    | {"num_experts_per_tok": 1, "router_hidden_size": 14, "cca_time0": 3, "cca_time1": 2},
    "inkling_text": SMALL
    | ATTENTION
    | {
        "swa_num_attention_heads": 3,
        "swa_num_key_value_heads": 3,
        "swa_head_dim": 16,
        "sliding_window_size": 8,
        "d_rel": 4,
        "rel_extent": 16,
        "layer_types": ["hybrid_sliding", "hybrid"],
        "mlp_layer_types": ["dense", "sparse"],
        "conv_kernel_size": 4,
        "moe_intermediate_size": 24,
        "n_routed_experts": 5,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
    },
    "lfm2": SMALL | GROUPED | SHORT_CONVOLUTION,
    "lfm2_moe": SMALL | GROUPED | SHORT_CONVOLUTION | EXPERTS | {"num_dense_layers": 1},
    "falcon_h1": SMALL | ATTENTION | MAMBA2 | {"mamba_d_ssm": 96},
    "granitemoehybrid": SMALL
    | GROUPED
    | MAMBA2
    | {
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 40,
        "layer_types": ["mamba", "attention"],
    },
    "bamba": SMALL | GROUPED | MAMBA2 | {"attn_layer_indices": [1]},
    "nemotron_h": SMALL
    | ATTENTION
    | {
        "layers_block_type": ["mamba", "moe", "attention", "mlp"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 12,
        "n_groups": 2,
        "ssm_state_size": 16,
        "conv_kernel": 4,
        "n_routed_experts": 5,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 40,
        "moe_latent_size": 16,
    },
    "gpt_oss": SMALL
    | ATTENTION
    | {
        "num_local_experts": 5,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
# Multiples of all pools of keys, and no longer than the choice of keys.
LENGTHS = (16, 32, 48)


def without_recurrences(monkeypatch: pytest.MonkeyPatch, model: torch.nn.Module) -> None:
    """Have the model's recurrences return zeros, as many as the values that they are given."""
    module = importlib.import_module(type(model).__module__)

    def delta_rule(_query: Any, _key: Any, value: torch.Tensor, *_: Any, **__: Any) -> Any:
        return torch.zeros_like(value), None

    def scan(values: torch.Tensor, *_: Any, **options: Any) -> Any:
        zeros = torch.zeros_like(values)
        return (zeros, None) if options.get("return_final_states") else zeros

    for name, stand_in in {
        "torch_chunk_gated_delta_rule": delta_rule,
        "chunk_kimi_delta_attention": delta_rule,
        "mamba2_chunk_scan": scan,
    }.items():
        if hasattr(module, name):
            monkeypatch.setattr(module, name, stand_in)


def counted_terms(model: torch.nn.Module) -> tuple[float, float]:
    """FLOPs for each token, and for each pair of tokens, masked or not.

    A convolution's padding is the same at each length, so it is in neither.
    """

    def count(tokens: int) -> int:
        prompt = torch.randint(3, SMALL["vocab_size"], (1, tokens))
        return counted_flops(lambda: model(input_ids=prompt, use_cache=False))

    first, second, third = map(count, LENGTHS)
    step = LENGTHS[0]
    per_pair = (third - 2 * second + first) / (2 * step**2)
    return (second - first) / step - per_pair * (LENGTHS[0] + LENGTHS[1]), per_pair


def left_out(layer: LayerCost) -> float:
    """FLOPs of a token that transformers computes elementwise, which is not counted."""
    if layer.state(1).recurrent:
        return layer.scan_flops(1)
    if isinstance(layer, HyperConnection):
        return 2.0 * layer.hidden * layer.streams * 2
    return layer.scan_flops(1) if isinstance(layer, NGramEmbedding) else 0.0


@pytest.mark.parametrize("name", MODELS)
def test_a_model_costs_what_torch_counts_of_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    # Not by CONFIG_MAPPING, where SGLang puts classes of its own in place of some.
    config_class = getattr(transformers, CONFIG_MAPPING_NAMES[name])
    config = config_class(**MODELS[name], attn_implementation="eager")
    config._experts_implementation = "eager"
    model = transformers.AutoModel.from_config(config).float().eval()
    without_recurrences(monkeypatch, model)
    per_token, per_pair = counted_terms(model)

    # The one-column gate of a shared expert is not counted, here and there.
    gates = sum(".shared_expert_gate" in key for key, _ in model.named_modules())
    per_token -= 2 * SMALL["hidden_size"] * gates
    fields = MODELS[name] | {"model_type": name, "mhc": True}
    cost, layers = from_config(fields), layers_of(ConfigView(fields))
    for layer in layers:
        if isinstance(layer, BlockIndexer):
            # Scores only the full blocks before each token: half of them, and half a block less.
            per_pair += layer.keys(1).flops / 2
            per_token -= layer.keys(1).flops * (1 - layer.pool / 2)
    ours = cost.flops_per_token - cost.flops_per_token_squared - sum(map(left_out, layers))
    windows = sum(window.flops_per_key for window in cost.windows)
    assert per_token == ours
    assert per_pair == 2 * cost.flops_per_token_squared + windows
