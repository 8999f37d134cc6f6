"""Models without recurrent layers, to compare hybrids with."""

from __future__ import annotations

from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.errors import UnknownLayerError
from sglang_marconi.cost.families.common import attention, experts, mlp
from sglang_marconi.cost.layer import LayerCost


def dense(config: ConfigView) -> list[LayerCost]:
    """Llama and Qwen3: attention, then an MLP."""
    return _with_feedforward(config, mlp(config))


def qwen3_moe(config: ConfigView) -> list[LayerCost]:
    """Qwen3 with experts."""
    return _with_feedforward(
        config, experts(config, intermediate=config.integer("moe_intermediate_size"))
    )


def gpt_oss(config: ConfigView) -> list[LayerCost]:
    """gpt-oss: full and sliding-window attention in turn, then experts."""
    return _with_feedforward(
        config, experts(config, intermediate=config.integer("intermediate_size"))
    )


def _with_feedforward(config: ConfigView, feedforward: LayerCost) -> list[LayerCost]:
    types = config.strings("layer_types")
    if types is None:
        types = ["full_attention"] * config.integer("num_hidden_layers")
    layers: list[LayerCost] = []
    for layer_type in types:
        if layer_type == "full_attention":
            layers.append(attention(config))
        elif layer_type == "sliding_attention":
            layers.append(attention(config, window=config.integer("sliding_window")))
        else:
            raise UnknownLayerError(layer_type, config.model_type)
        layers.append(feedforward)
    return layers
