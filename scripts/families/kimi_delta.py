"""Families of Kimi delta attention (KDA), and Ling's lightning attention."""

from __future__ import annotations

from families.family import DENSE, LATENT, WIDTH, Config, Family

_KIMI: Config = {
    **DENSE,
    **LATENT,
    "model_type": "kimi_linear",
    "num_key_value_heads": 4,
    "head_dim": 24,
    "mla_use_nope": True,
    "num_experts": 4,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "use_grouped_topk": True,
    "num_expert_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 2.5,
    "moe_router_activation_func": "sigmoid",
    "moe_renormalize": True,
    "linear_attn_config": {
        "full_attn_layers": [4],
        "kda_layers": [1, 2, 3],
        "num_heads": 4,
        "head_dim": 16,
        "short_conv_kernel_size": 4,
    },
}
_LING: Config = {
    **DENSE,
    **LATENT,
    "model_type": "bailing_hybrid",
    "num_key_value_heads": 4,
    "head_dim": 16,
    "num_experts": 4,
    "num_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "layer_group_size": 4,
    "group_norm_size": 1,
    "linear_silu": False,
    "use_qk_norm": True,
    "moe_router_enable_expert_bias": True,
    "score_function": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "router_dtype": "fp32",
    "partial_rotary_factor": 0.5,
    "num_nextn_predict_layers": 0,
    "rotary_dim": 8,
    "use_linear_attn_gate": True,
    "linear_attn_norm_group_size": 1,
}
LING_3: Config = {
    **_LING,
    "short_conv_kernel_size": 4,
    "kda_safe_gate": True,
    "kda_lower_bound": -5.0,
    "no_kda_lora": True,
}
_GLM: Config = {
    "model_type": "glm5_next_text",
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1,
    **LATENT,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 0,
    "linear_head_dim": 16,
    "linear_num_heads": 4,
    "num_nextn_predict_layers": 0,
    "rope_theta": 10000.0,
}


def _glm(**text: object) -> Config:
    return {
        "architectures": ["Glm5NextForConditionalGeneration"],
        "model_type": "glm5_next",
        "text_config": {**_GLM, **text},
        "vision_config": {
            "depth": 1,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 64,
            "out_hidden_size": WIDTH,
            "patch_size": 14,
            "image_size": 56,
            "swiglu_limit": 7.0,
        },
    }


KIMI_DELTA_FAMILIES = {
    "kimi-linear": Family("Kimi-Linear", {**_KIMI, "architectures": ["KimiLinearForCausalLM"]}),
    "kimi-k3": Family(
        "Kimi K3",
        {
            "architectures": ["KimiK3ForConditionalGeneration"],
            "model_type": "kimi_k3",
            # Images need a processor of the published model.
            "language_model_only": True,
            "text_config": {
                **_KIMI,
                "attn_res_block_size": 2,
                "mla_use_output_gate": True,
                "hidden_act": "situ",
                "activation_situ_beta": 4.0,
                "activation_situ_linear_beta": 8.0,
                "routed_expert_hidden_size": 32,
                "latent_moe_use_norm": True,
                "linear_attn_config": {
                    **_KIMI["linear_attn_config"],
                    "use_full_rank_gate": True,
                    "gate_lower_bound": -5.0,
                },
            },
            "vision_config": {
                "vt_num_hidden_layers": 1,
                "vt_hidden_size": 32,
                "vt_num_attention_heads": 2,
                "vt_intermediate_size": 64,
                "qkv_hidden_size": 32,
                "text_hidden_size": WIDTH,
            },
        },
        pages=(64,),
    ),
    "glm-5-next": Family(
        "GLM-5-Next",
        _glm(),
        vision=True,
        pages=(256,),
    ),
    "glm-5-next-mhc": Family("GLM-5-Next with mHC", _glm(mhc=True, hc_mult=2), vision=True),
    "ling-2.5": Family("Ling 2.5", {**_LING, "architectures": ["BailingMoeV2_5ForCausalLM"]}),
    "ling-3": Family(
        "Ling 3",
        {**LING_3, "architectures": ["BailingMoeV3ForCausalLM"]},
    ),
}
