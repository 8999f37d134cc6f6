"""Models of newer families as test cases; ``public_models`` has the others.

Where no published config.json is known, the fields are those of the family's config class, and
the values are not a published model's.
"""

from __future__ import annotations

from sglang_marconi.cost import preset_config

# defaults of ZayaConfig in SGLang, which are Zyphra/ZAYA1-base's: attention and experts in turn
ZAYA1_BASE = {
    "model_type": "zaya",
    "vocab_size": 262272,
    "tie_word_embeddings": True,
    "hidden_size": 2048,
    "ffn_hidden_size": 4096,
    "num_hidden_layers": 80,
    "num_experts": 16,
    "moe_router_topk": 1,
    "zaya_mlp_expansion": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "cca_time0": 2,
    "cca_time1": 2,
}

# openbmb/MiniCPM-SALA as its ports describe it (9.475 billion parameters); the fields of
# sparse_config as in OpenBMB's MiniCPM4
MINICPM_SALA = {
    "model_type": "minicpm_sala",
    "vocab_size": 73448,
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "mixer_types": ["minicpm4", "lightning", "lightning", "lightning"],
    "lightning_nh": 32,
    "lightning_nkv": 32,
    "lightning_head_dim": 128,
    "use_output_gate": True,
    "attn_use_output_gate": True,
    "sparse_config": {
        "kernel_size": 32,
        "kernel_stride": 16,
        "init_blocks": 1,
        "block_size": 64,
        "window_size": 2048,
        "topk": 64,
        "dense_len": 8192,
    },
}

# the preset under SGLang's names
INKLING = {
    **preset_config("inkling"),
    "model_type": "inkling_model",
    "intermediate_size": 3072,
    "dense_intermediate_size": 24576,
    "use_sconv": True,
    "sconv_kernel_size": 4,
    "shared_expert_sink": True,
}

# a Nemotron-H of four blocks, none like another of its type
NEMOTRON_PUZZLE = {
    "model_type": "nemotron_h_puzzle",
    "vocab_size": 1000,
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "mamba_num_heads": 16,
    "mamba_head_dim": 32,
    "n_groups": 4,
    "ssm_state_size": 32,
    "conv_kernel": 4,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 128,
    "moe_shared_expert_intermediate_size": 256,
    "intermediate_size": 512,
    "hybrid_override_pattern": "ME*E",
    "block_configs": [
        {"block_type": "mamba"},
        {"block_type": "moe", "n_routed_experts": 8, "num_experts_per_tok": 2},
        {"block_type": "attention", "num_key_value_heads": 2},
        {"block_type": "moe", "moe_intermediate_size": 96},
    ],
}
