"""Families of gated delta nets (GDN), and JetBlock."""

from __future__ import annotations

from families.family import DENSE, LATENT, WIDTH, Config, Family

_GDN: Config = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
QWEN: Config = {
    **DENSE,
    **_GDN,
    "head_dim": 32,
    "partial_rotary_factor": 0.5,
    "full_attention_interval": 4,
}
EXPERTS: Config = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
}
_ROPE: Config = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [3, 3, 2],
        "mrope_interleaved": True,
    }
}
VISION: Config = {
    "depth": 1,
    "hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 64,
    "out_hidden_size": WIDTH,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [],
}


def with_vision(architecture: str, model_type: str, text: Config) -> Config:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "text_config": {**text, **_ROPE},
        "vision_config": {**VISION, "model_type": model_type},
    }


_QWEN4: Config = {
    **QWEN,
    **EXPERTS,
    "model_type": "qwen4_exp_text",
    "hc_count": 2,
    "hc_lowrank": 16,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}

JET: Config = {
    **DENSE,
    "architectures": ["JetNemotronForCausalLM"],
    "model_type": "jet_nemotron",
    "rope_scaling": None,
    "layer_types": ["jet", "attn", "jet", "jet"],
    "initializer_range": 0.02,
    "efficient_attention_config": {
        "jet": {
            "mode": "chunk",
            "expand_v": 2.0,
            "num_heads": 4,
            "head_dim": 16,
            "norm_eps": "1e-5",
            "conv_size": 4,
            "dconv_generator_reduction": 8,
            "dconv_implementation": "triton",
        },
        "swa": {"window_size": 64},
    },
}

GATED_DELTA_FAMILIES = {
    "qwen3-next": Family(
        "Qwen3-Next",
        {
            **QWEN,
            **EXPERTS,
            "architectures": ["Qwen3NextForCausalLM"],
            "model_type": "qwen3_next",
        },
        pages=(64,),
    ),
    "qwen3.5": Family(
        "Qwen3.5",
        with_vision(
            "Qwen3_5ForConditionalGeneration", "qwen3_5", {**QWEN, "model_type": "qwen3_5_text"}
        ),
        vision=True,
        pages=(64,),
    ),
    "qwen3.5-moe": Family(
        "Qwen3.5 with experts",
        with_vision(
            "Qwen3_5MoeForConditionalGeneration",
            "qwen3_5_moe",
            {**QWEN, **EXPERTS, "model_type": "qwen3_5_moe_text"},
        ),
        vision=True,
    ),
    "qwen4-exp": Family(
        "Qwen4-Exp",
        with_vision("Qwen4ExpForConditionalGeneration", "qwen4_exp", _QWEN4),
        vision=True,
        pages=(64,),
    ),
    "qwen4-exp-ple": Family(
        "Qwen4-Exp with per-layer embeddings",
        with_vision(
            "Qwen4ExpForConditionalGeneration",
            "qwen4_exp",
            {
                **_QWEN4,
                "ple_layer_ids": [2],
                "ple_embed_dim": WIDTH,
                "ngram_vocab_size_base": 500,
                "heads_per_ngram": 2,
            },
        ),
        vision=True,
        pages=(64,),
    ),
    "gigachat-3.5": Family(
        "GigaChat 3.5",
        {
            **DENSE,
            **LATENT,
            **_GDN,
            "architectures": ["GigaChat35ForCausalLM"],
            "model_type": "gigachat3_5",
            "num_key_value_heads": 4,
            "q_lora_rank": 32,
            "head_dim": 8,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "routed_scaling_factor": 2.5,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "full_attention_layers": [3],
            "n_group": 1,
            "topk_group": 1,
        },
        strategies=("no_buffer",),
    ),
    "jet-nemotron": Family(
        "Jet-Nemotron",
        JET,
        strategies=("no_buffer",),
    ),
}
