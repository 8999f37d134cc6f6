"""Well-known hybrid models by name, for simulations that have no model at hand.

Only the fields that decide the cost are given. They are those of each model's published
config.json, taken from where the comment above each entry says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sglang_marconi.cost.build import from_config
from sglang_marconi.cost.model import ModelCost, pass_flops_of
from sglang_marconi.cost.paper import paper_cost, paper_weights

PAPER_7B = "paper-7b"

# Attention at layers 5, 15, 25 and 35 of 40, in all of Granite 4.0-H.
_GRANITE_LAYER_TYPES = ["attention" if layer % 10 == 5 else "mamba" for layer in range(40)]
_NEMOTRON_H = {
    "model_type": "nemotron_h",
    "vocab_size": 131072,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "mamba_num_heads": 128,
    "n_groups": 8,
    "ssm_state_size": 128,
    "conv_kernel": 4,
}
_QWEN_GATED_DELTA_NET = {
    "head_dim": 256,
    "full_attention_interval": 4,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}

_CONFIGS: Mapping[str, Mapping[str, object]] = {
    # github.com/NVIDIA-NeMo/Megatron-Bridge, models/nemotronh/nemotron_h_provider.py
    "nemotron-h-8b": {
        **_NEMOTRON_H,
        "hidden_size": 4096,
        "intermediate_size": 21504,
        "num_attention_heads": 32,
        "mamba_head_dim": 64,
        "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
    },
    # the same file
    "nemotron-nano-9b-v2": {
        **_NEMOTRON_H,
        "hidden_size": 4480,
        "intermediate_size": 15680,
        "num_attention_heads": 40,
        "mamba_head_dim": 80,
        "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
    },
    # the same file
    "nemotron-3-nano-30b-a3b": {
        **_NEMOTRON_H,
        "hidden_size": 2688,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "mamba_num_heads": 64,
        "mamba_head_dim": 64,
        "moe_intermediate_size": 1856,
        "moe_shared_expert_intermediate_size": 3712,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 6,
        "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    },
    # huggingface.co/tiiuae/Falcon-H1-7B-Base; depth, widths and heads also in transformers'
    # documentation of falcon_h1
    "falcon-h1-7b": {
        "model_type": "falcon_h1",
        "vocab_size": 130048,
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 44,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "mamba_d_ssm": 3072,
        "mamba_n_heads": 24,
        "mamba_d_head": 128,
        "mamba_n_groups": 1,
        "mamba_d_state": 256,
        "mamba_d_conv": 4,
    },
    # huggingface.co/ibm-granite/granite-4.0-h-tiny: model card, "Model Architecture"
    "granite-4.0-h-tiny": {
        "model_type": "granitemoehybrid",
        "vocab_size": 100352,
        "tie_word_embeddings": True,
        "hidden_size": 1536,
        "intermediate_size": 512,
        "shared_intermediate_size": 1024,
        "num_hidden_layers": 40,
        "num_local_experts": 64,
        "num_experts_per_tok": 6,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "mamba_n_heads": 48,
        "mamba_d_head": 64,
        "mamba_n_groups": 1,
        "mamba_d_state": 128,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "layer_types": _GRANITE_LAYER_TYPES,
    },
    # the same model card
    "granite-4.0-h-small": {
        "model_type": "granitemoehybrid",
        "vocab_size": 100352,
        "tie_word_embeddings": True,
        "hidden_size": 4096,
        "intermediate_size": 768,
        "shared_intermediate_size": 1536,
        "num_hidden_layers": 40,
        "num_local_experts": 72,
        "num_experts_per_tok": 10,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "mamba_n_heads": 128,
        "mamba_d_head": 64,
        "mamba_n_groups": 1,
        "mamba_d_state": 128,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "layer_types": _GRANITE_LAYER_TYPES,
    },
    # defaults of Qwen3NextConfig in transformers, which documents them as this model's
    "qwen3-next-80b-a3b": {
        **_QWEN_GATED_DELTA_NET,
        "model_type": "qwen3_next",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts": 512,
        "num_experts_per_tok": 10,
    },
    # defaults of Qwen3_5MoeTextConfig in transformers
    "qwen3.5-35b-a3b": {
        **_QWEN_GATED_DELTA_NET,
        "model_type": "qwen3_5_moe_text",
        "vocab_size": 248320,
        "hidden_size": 2048,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts": 256,
        "num_experts_per_tok": 8,
    },
    # huggingface.co/Qwen/Qwen3.8-Flash-Next, the first of Qwen4-Exp, as public code quotes it
    "qwen3.8-flash-next": {
        **_QWEN_GATED_DELTA_NET,
        "model_type": "qwen4_exp_text",
        "vocab_size": 248320,
        "hidden_size": 2560,
        "num_hidden_layers": 48,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "linear_num_value_heads": 48,
        "moe_intermediate_size": 640,
        "shared_expert_intermediate_size": 640,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "hc_count": 4,
        "hc_lowrank": 320,
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 128,
        "indexer_budget": 2048,
        "indexer_compress_ratio": 4,
        "ple_layer_ids": [2],
        "ple_embed_dim": 2560,
        "ple_conv_kernel_size": 4,
        "ngram_size": 3,
        "heads_per_ngram": 8,
        "ngram_vocab_size_base": 20_000_000,
    },
    # defaults of KimiLinearConfig in transformers; layer lists of
    # huggingface.co/moonshotai/Kimi-Linear-48B-A3B-Instruct
    "kimi-linear-48b-a3b": {
        "model_type": "kimi_linear",
        "vocab_size": 163840,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 27,
        "num_attention_heads": 32,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 1024,
        "num_experts": 256,
        "num_experts_per_token": 8,
        "num_shared_experts": 1,
        "linear_attn_config": {
            "kda_layers": [layer for layer in range(1, 27) if layer % 4],
            "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
            "num_heads": 32,
            "head_dim": 128,
            "short_conv_kernel_size": 4,
        },
    },
    # huggingface.co/moonshotai/Kimi-K3, as quoted in github.com/NVIDIA-NeMo/Automodel,
    # tests/unit_tests/models/kimi_k3
    "kimi-k3": {
        "model_type": "kimi_linear",
        "vocab_size": 163840,
        "hidden_size": 7168,
        "intermediate_size": 33792,
        "num_hidden_layers": 93,
        "num_attention_heads": 96,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "mla_use_output_gate": True,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 3072,
        "routed_expert_hidden_size": 3584,
        "num_experts": 896,
        "num_experts_per_token": 16,
        "num_shared_experts": 2,
        "linear_attn_config": {
            "kda_layers": [layer for layer in range(1, 93) if layer % 4],
            "full_attn_layers": [*range(4, 93, 4), 93],
            "num_heads": 96,
            "head_dim": 128,
            "short_conv_kernel_size": 4,
            "use_full_rank_gate": True,
        },
    },
    # huggingface.co/LiquidAI/LFM2-2.6B; the MLP's width is the one built
    "lfm2-2.6b": {
        "model_type": "lfm2",
        "vocab_size": 65536,
        "tie_embedding": True,
        "hidden_size": 2048,
        "intermediate_size": 10752,
        "block_auto_adjust_ff_dim": False,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "conv_L_cache": 3,
        "full_attn_idxs": [2, 5, 9, 13, 17, 21, 24, 27],
    },
    # huggingface.co/inclusionAI/Ring-mini-linear-2.0
    "ring-mini-linear-2.0": {
        "model_type": "bailing_moe_linear",
        "vocab_size": 157184,
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "num_hidden_layers": 20,
        "layer_group_size": 5,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 512,
        "moe_shared_expert_intermediate_size": 512,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "num_shared_experts": 1,
    },
    # defaults of ZayaConfig in transformers, which documents them as Zyphra/ZAYA1-8B's
    "zaya1-8b": {
        "model_type": "zaya",
        "vocab_size": 262272,
        "tie_word_embeddings": True,
        "hidden_size": 2048,
        "num_hidden_layers": 40,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "cca_time0": 2,
        "cca_time1": 2,
        "router_hidden_size": 256,
        "moe_intermediate_size": 2048,
        "num_experts": 16,
        "num_experts_per_tok": 1,
    },
    # defaults of Glm5NextTextConfig in transformers, which documents them as zai-org's, but for
    # the pools of keys: 4 in GLM-5.3-Flash, according to github.com/sgl-project/sglang/issues/36830
    "glm-5.3-flash": {
        "model_type": "glm5_next_text",
        "vocab_size": 154880,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 45,
        "num_attention_heads": 64,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 256,
        "qk_rope_head_dim": 0,
        "v_head_dim": 256,
        "index_topk": 2048,
        "index_n_heads": 32,
        "index_head_dim": 128,
        "index_kpool": 4,
        "linear_num_heads": 64,
        "linear_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "mhc": True,
        "hc_mult": 4,
        "first_k_dense_replace": 3,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 288,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
    },
    # defaults of InklingTextConfig in transformers, which documents them as thinkingmachines'
    "inkling": {
        "model_type": "inkling_text",
        "vocab_size": 201024,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_hidden_layers": 66,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "swa_num_attention_heads": 64,
        "swa_num_key_value_heads": 16,
        "swa_head_dim": 128,
        "sliding_window_size": 512,
        "local_layer_ids": [layer for layer in range(66) if (layer + 1) % 6],
        "d_rel": 16,
        "rel_extent": 1024,
        "conv_kernel_size": 4,
        "moe_intermediate_size": 3072,
        "n_routed_experts": 256,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
    },
}


def preset_names() -> list[str]:
    """Every name that `preset` takes."""
    return [PAPER_7B, *_CONFIGS]


def preset_config(name: str) -> Mapping[str, object]:
    """The config of a preset, for `from_config`; "paper-7b" has none.

    Raises:
        KeyError: no such preset has a config.
    """
    if name not in _CONFIGS:
        raise KeyError(f"no config for preset {name!r}; there is one for {', '.join(_CONFIGS)}")
    return dict(_CONFIGS[name])


def preset(name: str) -> ModelCost:
    """A preset's cost on one rank, with the bytes per element that SGLang defaults to.

    "paper-7b" is the 7B hybrid of the Marconi paper, accounted as the paper does, but for what
    a pass costs.

    Raises:
        KeyError: no such preset.
    """
    if name == PAPER_7B:
        layers = {"attention_layers": 4, "mamba_layers": 24, "mlp_layers": 28, "hidden": 4096}
        pass_flops = pass_flops_of(paper_weights(**layers))
        return replace(paper_cost(**layers, state_dim=128), pass_flops=pass_flops)
    return from_config(preset_config(name))
