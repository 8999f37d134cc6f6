"""Which layers a model has: one function per architecture family, by ``model_type``."""

from __future__ import annotations

from collections.abc import Callable

from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.errors import UnknownModelError
from sglang_marconi.cost.families import delta, linear, mamba, transformer
from sglang_marconi.cost.layer import LayerCost

_FAMILIES: dict[str, Callable[[ConfigView], list[LayerCost]]] = {
    "bailing_hybrid": linear.bailing,
    "bailing_moe_linear": linear.bailing,
    "bamba": mamba.bamba,
    "falcon_h1": mamba.falcon_h1,
    "falcon_mamba": mamba.mamba1,
    "gigachat3_5": delta.gigachat,
    "gpt_oss": transformer.gpt_oss,
    "granitemoehybrid": mamba.granite_hybrid,
    "jamba": mamba.jamba,
    "jet_nemotron": delta.jet_nemotron,
    "kimi_linear": delta.kimi_linear,
    "lfm2": linear.lfm2,
    "lfm2_moe": linear.lfm2_moe,
    "llama": transformer.dense,
    "mamba": mamba.mamba1,
    "mamba2": mamba.mamba2,
    "minimax": linear.minimax,
    "minimax_m1": linear.minimax,
    "minimax_text_01": linear.minimax,
    "nemotron_h": mamba.nemotron_h,
    "qwen3": transformer.dense,
    "qwen3_5": delta.qwen_dense,
    "qwen3_5_moe": delta.qwen_moe,
    "qwen3_5_moe_text": delta.qwen_moe,
    "qwen3_5_text": delta.qwen_dense,
    "qwen3_moe": transformer.qwen3_moe,
    "qwen3_next": delta.qwen_moe,
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
