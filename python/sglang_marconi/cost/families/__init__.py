"""Which layers a model has: one function per architecture family, by ``model_type``."""

from __future__ import annotations

from collections.abc import Callable

from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.errors import UnknownModelError
from sglang_marconi.cost.families import convolved, delta, linear, mamba, streams, transformer
from sglang_marconi.cost.layer import LayerCost

_FAMILIES: dict[str, Callable[[ConfigView], list[LayerCost]]] = {
    "bailing_hybrid": linear.bailing,
    "bailing_moe_linear": linear.bailing,
    "bailing_moe_v3_vl": linear.bailing,
    "bamba": mamba.bamba,
    "falcon_h1": mamba.falcon_h1,
    "falcon_mamba": mamba.mamba1,
    "gigachat3_5": delta.gigachat,
    "glm5_next": streams.glm5_next,
    "glm5_next_text": streams.glm5_next,
    "gpt_oss": transformer.gpt_oss,
    "granitemoehybrid": mamba.granite_hybrid,
    "inkling_mm_model": convolved.inkling,
    "inkling_model": convolved.inkling,
    "inkling_text": convolved.inkling,
    "intern_s2_preview": delta.qwen_moe,
    "interns2_mobius": delta.intern_s2_mobius,
    "interns2_mobius_text": delta.intern_s2_mobius,
    "jamba": mamba.jamba,
    "jet_nemotron": delta.jet_nemotron,
    "jet_vlm": delta.jet_nemotron,
    "kimi_k3": delta.kimi_linear,
    "kimi_linear": delta.kimi_linear,
    "lfm2": linear.lfm2,
    "lfm2_moe": linear.lfm2_moe,
    "llama": transformer.dense,
    "mamba": mamba.mamba1,
    "mamba2": mamba.mamba2,
    "minicpm_sala": linear.minicpm_sala,
    "minimax": linear.minimax,
    "minimax_m1": linear.minimax,
    "minimax_text_01": linear.minimax,
    "nemotron_h": mamba.nemotron_h,
    "nemotron_h_puzzle": mamba.nemotron_h_puzzle,
    "qwen3": transformer.dense,
    "qwen3_5": delta.qwen_dense,
    "qwen3_5_moe": delta.qwen_moe,
    "qwen3_5_moe_text": delta.qwen_moe,
    "qwen3_5_text": delta.qwen_dense,
    "qwen3_moe": transformer.qwen3_moe,
    "qwen3_next": delta.qwen_moe,
    "qwen4_exp": streams.qwen4_exp,
    "qwen4_exp_text": streams.qwen4_exp,
    "zaya": convolved.zaya,
}


def layers_of(config: ConfigView) -> list[LayerCost]:
    """Every layer of the model, in any order.

    Raises:
        UnknownModelError: the model type is of no family listed here.
        UnknownLayerError: the family has a layer type without a formula.
        ConfigFieldError: a field that a formula needs is missing or malformed.
    """
    family = _FAMILIES.get(config.model_type)
    if family is None:
        raise UnknownModelError(config.model_type)
    return family(config)
