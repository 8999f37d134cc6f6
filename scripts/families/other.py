"""Families of Mamba2, short convolutions, and what has a mixer of its own."""

from __future__ import annotations

from families.family import DENSE, WIDTH, Config, Family

_MAMBA2: Config = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "mamba_n_heads": 8,
    "mamba_d_head": 32,
    "mamba_n_groups": 1,
    "mamba_d_state": 32,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 64,
    "hidden_act": "silu",
}
_GRANITE: Config = {
    **_MAMBA2,
    "model_type": "granitemoehybrid",
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "intermediate_size": 64,
    "layer_types": ["mamba", "attention", "mamba", "mamba"],
    "position_embedding_type": "nope",
    "tie_word_embeddings": False,
    # By default the layers' share of the hidden states, and the logits, are small.
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 0.2,
    "logits_scaling": 1.0,
}
_NEMOTRON: Config = {
    "architectures": ["NemotronHForCausalLM"],
    "model_type": "nemotron_h",
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "mlp_hidden_act": "relu2",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    # SGLang reads the one, transformers the other.
    "n_groups": 2,
    "mamba_n_groups": 2,
    "ssm_state_size": 16,
    "conv_kernel": 4,
    "expand": 2,
    "chunk_size": 64,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": False,
}
NEMOTRON_3: Config = {
    **_NEMOTRON,
    "num_hidden_layers": 5,
    "hybrid_override_pattern": "MEM*E",
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
_LFM2: Config = {
    **{key: value for key, value in DENSE.items() if key != "rms_norm_eps"},
    "layer_types": ["conv", "full_attention", "conv", "conv"],
    "conv_L_cache": 3,
    "conv_bias": False,
    "norm_eps": 1e-5,
}

OTHER_FAMILIES = {
    "nemotron-h": Family(
        "NemotronH, Nemotron Nano v2",
        {**_NEMOTRON, "num_hidden_layers": 5, "hybrid_override_pattern": "M-M*-"},
        pages=(64,),
    ),
    "nemotron-3": Family(
        "Nemotron 3",
        NEMOTRON_3,
        pages=(64,),
    ),
    "falcon-h1": Family(
        "Falcon-H1",
        {
            **_MAMBA2,
            "model_type": "falcon_h1",
            "architectures": ["FalconH1ForCausalLM"],
            "intermediate_size": 256,
            "head_dim": 32,
            "mamba_d_ssm": 256,
        },
    ),
    "granite-4.0-h": Family(
        "Granite 4.0-H",
        {
            **_GRANITE,
            "shared_intermediate_size": 256,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
        },
    ),
    "granite-4.0-h-moe": Family(
        "Granite 4.0-H with experts",
        {
            **_GRANITE,
            "shared_intermediate_size": 64,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
    "lfm2": Family(
        "LFM2",
        {
            **_LFM2,
            "model_type": "lfm2",
            "architectures": ["Lfm2ForCausalLM"],
            "block_auto_adjust_ff_dim": False,
            "block_ff_dim": 128,
            "block_dim": WIDTH,
            "conv_dim": WIDTH,
        },
        strategies=("no_buffer",),
        recurrent=False,
    ),
    "lfm2-moe": Family(
        "LFM2 with experts",
        {
            **_LFM2,
            "model_type": "lfm2_moe",
            "architectures": ["Lfm2MoeForCausalLM"],
            "num_dense_layers": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "use_expert_bias": True,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
        strategies=("no_buffer",),
        recurrent=False,
    ),
    "zaya": Family(
        "Zaya",
        {
            "architectures": ["ZayaForCausalLM"],
            "model_type": "zaya",
            "hidden_size": WIDTH,
            "ffn_hidden_size": WIDTH,
            "num_hidden_layers": 4,
            "num_experts": 4,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "kv_channels": 16,
            "cca_time0": 2,
            "cca_time1": 2,
            "zaya_mlp_expansion": 16,
            "activation_func": "swiglu",
            "tie_word_embeddings": False,
            "rope_theta": 10000.0,
            "norm_epsilon": 1e-5,
        },
        strategies=("no_buffer",),
        recurrent=False,
    ),
}
