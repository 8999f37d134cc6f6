"""A config for each architecture that SGLang caches as a hybrid model, by family.

Some have a vision model around the language model; SGLang goes by the architecture's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sglang_marconi.cost import preset_config

from support.new_families import (
    INKLING,
    MINICPM_SALA,
    NEMOTRON_PUZZLE,
    ZAYA1_BASE,
)
from support.public_models import (
    FALCON_MAMBA,
    GIGACHAT,
    JET_NEMOTRON,
    LFM2_8B_A1B,
    LING,
    QWEN3_5_4B,
)

Config = Mapping[str, Any]


def around(text: Config, model_type: str) -> dict[str, Any]:
    """A multimodal model's config."""
    return {"model_type": model_type, "text_config": dict(text)}


QWEN_MOE = preset_config("qwen3.5-35b-a3b")
LING_3 = LING | {"short_conv_kernel_size": 4}
JET = JET_NEMOTRON | {"num_hidden_layers": 4}
# SGLang has no other way of pooling keys.
GLM = preset_config("glm-5.3-flash") | {
    "index_kpool_compress": True,
    "index_kpool_always_select_tail": True,
}
# Rotary channels have to fit into an indexer's head.
PARTIAL = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25}
NEMOTRON = preset_config("nemotron-nano-9b-v2")
OMNI = {
    "model_type": "nemotron_h_omni",
    "llm_config": NEMOTRON,
    "vision_config": {"args": {}, "video_temporal_patch_size": 2},
}

CACHED: dict[str, dict[str, Config]] = {
    "Nemotron-H, Nemotron Nano v2, Nemotron 3, Puzzle, Omni": {
        "NemotronHForCausalLM": preset_config("nemotron-3-nano-30b-a3b"),
        "NemotronHPuzzleForCausalLM": NEMOTRON_PUZZLE,
        "NemotronH_Omni_Reasoning_V3": OMNI,
    },
    "Falcon-H1": {"FalconH1ForCausalLM": preset_config("falcon-h1-7b")},
    "Granite 4.0-H": {"GraniteMoeHybridForCausalLM": preset_config("granite-4.0-h-tiny")},
    "Qwen3-Next, Qwen3.5, Intern-S2, MiniCPM-V 4.6 and 4.7": {
        "Qwen3NextForCausalLM": preset_config("qwen3-next-80b-a3b"),
        "Qwen3_5ForConditionalGeneration": QWEN3_5_4B,
        "Qwen3_5MoeForConditionalGeneration": around(QWEN_MOE, "qwen3_5_moe"),
        "InternS2PreviewForConditionalGeneration": around(QWEN_MOE, "intern_s2_preview"),
        "MiniCPMV4_6ForConditionalGeneration": around(QWEN3_5_4B["text_config"], "minicpmv4_6"),
        "MiniCPMV4_7ForConditionalGeneration": around(QWEN3_5_4B["text_config"], "minicpmv4_7"),
    },
    "Qwen3.5 without its vision model": {
        "Qwen3_5ForCausalLM": QWEN3_5_4B["text_config"],
        "Qwen3_5MoeForCausalLM": QWEN_MOE,
    },
    "Intern-S2 Mobius": {
        "InternS2MobiusForConditionalGeneration": around(QWEN_MOE, "interns2_mobius"),
    },
    "Qwen4-Exp": {
        "Qwen4ExpForConditionalGeneration": around(
            preset_config("qwen3.8-flash-next") | {"rope_parameters": PARTIAL, "eos_token_id": 2},
            "qwen4_exp",
        )
    },
    "Kimi-Linear": {"KimiLinearForCausalLM": preset_config("kimi-linear-48b-a3b")},
    "Kimi-K3": {"KimiK3ForConditionalGeneration": around(preset_config("kimi-k3"), "kimi_k3")},
    "GLM-5-Next": {"Glm5NextForConditionalGeneration": around(GLM, "glm5_next")},
    "GigaChat 3.5": {"GigaChat35ForCausalLM": GIGACHAT},
    "Ling 2.5 and 3": {
        "BailingMoeV2_5ForCausalLM": LING,
        "BailingMoeV3ForCausalLM": LING_3,
        "BailingMoeV3VLForConditionalGeneration": around(LING_3, "bailing_moe_v3_vl"),
    },
    "Jet-Nemotron, JetVLM": {
        "JetNemotronForCausalLM": JET,
        "JetVLMForConditionalGeneration": around(JET, "jet_vlm"),
    },
    "LFM2, LFM2-MoE": {
        "Lfm2ForCausalLM": preset_config("lfm2-2.6b"),
        "Lfm2MoeForCausalLM": LFM2_8B_A1B,
    },
    "Zaya": {"ZayaForCausalLM": ZAYA1_BASE},
    "Inkling": {"InklingForConditionalGeneration": around(INKLING, "inkling_mm_model")},
}

# Recurrent models that SGLang serves without caching their states.
NOT_CACHED: dict[str, Config] = {
    "FalconMambaForCausalLM": FALCON_MAMBA,
    "Lfm2VlForConditionalGeneration": around(preset_config("lfm2-2.6b"), "lfm2_vl"),
    "MiniCPMSALAForCausalLM": MINICPM_SALA,
    "NemotronH_Nano_VL_V2": OMNI | {"model_type": "NemotronH_Nano_VL_V2"},
}
