"""Public models as test cases: the presets, more configs, and the sizes their makers state.

Each config holds the fields that decide the cost, as in the model's published config.json;
the source stands above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sglang_marconi.cost import preset_config

from support.new_families import MINICPM_SALA


class Published(NamedTuple):
    """What a model's maker says: parameters in all and, with experts, per token (billions)."""

    config: Mapping[str, object]
    total: float
    active: float | None = None


# github.com/NVIDIA-NeMo/Megatron-Bridge, models/nemotronh/nemotron_h_provider.py
NEMOTRON_3_SUPER = {
    "model_type": "nemotron_h",
    "vocab_size": 131072,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "ssm_state_size": 128,
    "conv_kernel": 4,
    "moe_intermediate_size": 2688,
    "moe_shared_expert_intermediate_size": 5376,
    "moe_latent_size": 1024,
    "n_routed_experts": 512,
    "n_shared_experts": 1,
    "num_experts_per_tok": 22,
    "hybrid_override_pattern": (
        "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME"
    ),
}

# huggingface.co/tiiuae/Falcon-H1-3B-Base
FALCON_H1_3B = {
    "model_type": "falcon_h1",
    "vocab_size": 65536,
    "hidden_size": 2560,
    "intermediate_size": 6144,
    "num_hidden_layers": 32,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "mamba_d_ssm": 4096,
    "mamba_n_heads": 32,
    "mamba_d_head": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
}

# defaults of JambaConfig in transformers, which are Jamba-v0.1's
JAMBA = {
    "model_type": "jamba",
    "vocab_size": 65536,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 256,
}

# defaults of BambaConfig in transformers; the attention layers of ibm-ai-platform/Bamba-9B
BAMBA = {
    "model_type": "bamba",
    "vocab_size": 128000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "attn_layer_indices": [9, 18, 27],
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 128,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
}

# huggingface.co/tiiuae/falcon-mamba-7b
FALCON_MAMBA = {
    "model_type": "falcon_mamba",
    "vocab_size": 65024,
    "tie_word_embeddings": False,
    "hidden_size": 4096,
    "intermediate_size": 8192,
    "num_hidden_layers": 64,
    "state_size": 16,
    "conv_kernel": 4,
    "time_step_rank": 256,
}

# defaults of Mamba2Config in transformers, which are Mamba-Codestral-7B-v0.1's
CODESTRAL_MAMBA = {
    "model_type": "mamba2",
    "vocab_size": 32768,
    "hidden_size": 4096,
    "intermediate_size": 8192,
    "num_hidden_layers": 64,
    "num_heads": 128,
    "head_dim": 64,
    "n_groups": 8,
    "state_size": 128,
    "conv_kernel": 4,
    "expand": 2,
}

# huggingface.co/Qwen/Qwen3.5-4B, whose language model is nested
QWEN3_5_4B = {
    "model_type": "qwen3_5",
    "text_config": {
        "model_type": "qwen3_5_text",
        "vocab_size": 248320,
        "tie_word_embeddings": True,
        "hidden_size": 2560,
        "intermediate_size": 9216,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "attn_output_gate": True,
        "full_attention_interval": 4,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_num_value_heads": 32,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 8,
    },
}

# defaults of Lfm2MoeConfig in transformers with the layers of LiquidAI/LFM2-8B-A1B
LFM2_8B_A1B = {
    "model_type": "lfm2_moe",
    "vocab_size": 65536,
    "tie_word_embeddings": True,
    "hidden_size": 2048,
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "conv_L_cache": 3,
    "num_dense_layers": 2,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "layer_types": [
        "full_attention" if layer in (2, 6, 10, 14, 18, 21) else "conv" for layer in range(24)
    ],
}

# huggingface.co/MiniMaxAI/MiniMax-Text-01; dimensions also in arXiv 2501.08313, section 2
MINIMAX_TEXT_01 = {
    "model_type": "minimax_text_01",
    "vocab_size": 200064,
    "hidden_size": 6144,
    "intermediate_size": 9216,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_local_experts": 32,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 0,
    "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10,
}

# defaults of GptOssConfig in transformers, which are gpt-oss-120b's: every other layer has a
# sliding window
GPT_OSS_120B = {
    "model_type": "gpt_oss",
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "sliding_window": 128,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
}

# huggingface.co/meta-llama/Llama-3.1-8B
LLAMA_3_1_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}

# huggingface.co/Qwen/Qwen3-30B-A3B
QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}

# defaults of BailingHybridConfig in SGLang, with the layers and heads of Ring-mini-linear-2.0:
# a Ling of version 2.5 (lightning attention with MLA)
LING = {
    **preset_config("ring-mini-linear-2.0"),
    "model_type": "bailing_hybrid",
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}

# defaults of GigaChat35Config in SGLang, with every fourth layer full attention
GIGACHAT = {
    "model_type": "gigachat3_5",
    "vocab_size": 128256,
    "hidden_size": 1280,
    "intermediate_size": 896,
    "moe_intermediate_size": 896,
    "num_hidden_layers": 12,
    "full_attention_layers": [3, 7, 11],
    "num_attention_heads": 16,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "gated_attention": True,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 8,
    "linear_num_value_heads": 16,
}

# the fields of Jet-Nemotron's config; the values are not a published model's
JET_NEMOTRON = {
    "model_type": "jet_nemotron",
    "vocab_size": 1000,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "layer_types": ["jet", "swa", "attn", "jet"],
    "efficient_attention_config": {
        "swa": {"window_size": 1152},
        "jet": {
            "mode": "chunk",
            "expand_v": 2.0,
            "num_heads": 12,
            "head_dim": 96,
            "norm_eps": "1e-5",
            "conv_size": 4,
            "dconv_generator_reduction": 8,
            "dconv_implementation": "triton",
        },
    },
}

# Sizes as each maker states them in the model's name, card or paper; active parameters with
# or without embeddings, as the maker counts them.
PUBLISHED: dict[str, Published] = {
    "nemotron-h-8b": Published(preset_config("nemotron-h-8b"), 8.1),
    "nemotron-nano-9b-v2": Published(preset_config("nemotron-nano-9b-v2"), 8.89),
    "nemotron-3-nano-30b-a3b": Published(preset_config("nemotron-3-nano-30b-a3b"), 31.6, 3.6),
    "nemotron-3-super": Published(NEMOTRON_3_SUPER, 120.6, 12.7),
    "falcon-h1-7b": Published(preset_config("falcon-h1-7b"), 7.59),
    "falcon-h1-3b": Published(FALCON_H1_3B, 3.15),
    "granite-4.0-h-tiny": Published(preset_config("granite-4.0-h-tiny"), 7.0),
    "granite-4.0-h-small": Published(preset_config("granite-4.0-h-small"), 32.0, 9.0),
    "jamba-v0.1": Published(JAMBA, 52.0, 12.0),
    "bamba-9b": Published(BAMBA, 9.8),
    "falcon-mamba-7b": Published(FALCON_MAMBA, 7.27),
    "mamba-codestral-7b": Published(CODESTRAL_MAMBA, 7.29),
    "qwen3-next-80b-a3b": Published(preset_config("qwen3-next-80b-a3b"), 80.0, 3.0),
    "qwen3.5-35b-a3b": Published(preset_config("qwen3.5-35b-a3b"), 35.0, 3.0),
    "qwen3.5-4b": Published(QWEN3_5_4B, 4.0),
    "kimi-linear-48b-a3b": Published(preset_config("kimi-linear-48b-a3b"), 48.0, 3.0),
    "lfm2-2.6b": Published(preset_config("lfm2-2.6b"), 2.57),
    "lfm2-8b-a1b": Published(LFM2_8B_A1B, 8.3, 1.5),
    "ring-mini-linear-2.0": Published(preset_config("ring-mini-linear-2.0"), 16.4, 1.6),
    "minimax-text-01": Published(MINIMAX_TEXT_01, 456.0, 45.9),
    "zaya1-8b": Published(preset_config("zaya1-8b"), 8.4, 0.76),
    "glm-5.3-flash": Published(preset_config("glm-5.3-flash"), 320.0, 18.0),
    # 125 billion, and 51 of the table of n-grams
    "qwen3.8-flash-next": Published(preset_config("qwen3.8-flash-next"), 176.0, 6.0),
    "kimi-k3": Published(preset_config("kimi-k3"), 2800.0),
    "inkling": Published(preset_config("inkling"), 975.0, 41.0),
    "minicpm-sala": Published(MINICPM_SALA, 9.475),
    "gpt-oss-120b": Published(GPT_OSS_120B, 117.0, 5.1),
    "llama-3.1-8b": Published(LLAMA_3_1_8B, 8.03),
    "qwen3-30b-a3b": Published(QWEN3_30B_A3B, 30.5, 3.3),
}
