"""Models that other families' layers make up: with a vision model around them, or rearranged."""

from __future__ import annotations

from families.family import Config, Family
from families.gated_delta import EXPERTS, JET, QWEN, VISION, with_vision
from families.kimi_delta import LING_3
from families.other import NEMOTRON_3

_SIGLIP: Config = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


WRAPPED_FAMILIES = {
    "nemotron-puzzle": Family(
        "Nemotron-H Puzzle",
        {
            **NEMOTRON_3,
            "architectures": ["NemotronHPuzzleForCausalLM"],
            "model_type": "nemotron_h_puzzle",
            "block_configs": [
                {"block_type": "mamba"},
                {"block_type": "moe", "n_routed_experts": 8, "moe_intermediate_size": 16},
                {"block_type": "mamba"},
                {"block_type": "attention", "num_key_value_heads": 1},
                {"block_type": "moe", "n_routed_experts": 4, "num_experts_per_tok": 1},
            ],
        },
        like="nemotron-3",
        pages=(64,),
    ),
    "nemotron-omni": Family(
        "Nemotron Omni",
        {
            "architectures": ["NemotronH_Omni_Reasoning_V3"],
            "model_type": "nemotron_h_omni",
            "llm_config": {**NEMOTRON_3, "model_type": "nemotron_h"},
            # Images need a processor of the published model.
            "language_model_only": True,
            "vit_hidden_size": 32,
            "projector_hidden_size": 32,
            "vision_config": {
                "args": {"model": "vit_small_patch16_224"},
                "video_temporal_patch_size": 2,
            },
        },
        like="nemotron-3",
        pages=(64,),
    ),
    "intern-s2-preview": Family(
        "Intern-S2 preview",
        with_vision(
            "InternS2PreviewForConditionalGeneration",
            "intern_s2_preview",
            {**QWEN, **EXPERTS, "model_type": "qwen3_5_moe_text"},
        ),
        like="qwen3.5-moe",
        pages=(64,),
        vision=True,
    ),
    "intern-s2-mobius": Family(
        "Intern-S2 Mobius",
        with_vision(
            "InternS2MobiusForConditionalGeneration",
            "interns2_mobius",
            {
                **QWEN,
                **EXPERTS,
                "model_type": "interns2_mobius_text",
                "num_blocks": 2,
                "layer_types": ["linear_attention"] * 3 + ["full_attention"],
            },
        ),
        strategies=("no_buffer",),
        # By default its experts are those of a kernel for GPUs, which has their weights transposed.
        arguments=("--moe-runner-backend", "triton"),
        vision=True,
    ),
    "ling-3-vl": Family(
        "Ling 3 VL",
        {
            "architectures": ["BailingMoeV3VLForConditionalGeneration"],
            "model_type": "bailing_moe_v3_vl",
            "text_config": LING_3,
            "vision_config": VISION,
            "mrope_section": [2, 1, 1],
        },
        like="ling-3",
        vision=True,
    ),
    "jet-vlm": Family(
        "JetVLM",
        {
            "architectures": ["JetVLMForConditionalGeneration"],
            "model_type": "jet_vlm",
            # Images need a processor of the published model.
            "language_model_only": True,
            "text_config": JET,
            "vision_config": _SIGLIP,
        },
        like="jet-nemotron",
        strategies=("no_buffer",),
    ),
}
