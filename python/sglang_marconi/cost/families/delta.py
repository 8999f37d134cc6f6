"""Families built on the delta rule: Qwen3-Next and 3.5, Kimi-Linear, GigaChat, Jet-Nemotron."""

from __future__ import annotations

from dataclasses import replace

from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.delta import JetBlock, KimiDeltaAttention
from sglang_marconi.cost.errors import UnknownLayerError
from sglang_marconi.cost.families.common import (
    attention,
    experts,
    gated_delta_net,
    is_sparse,
    latent_attention,
    mlp,
)
from sglang_marconi.cost.layer import LayerCost

_FULL_ATTENTION_TYPES = ("attention", "full_attention")


def qwen_dense(config: ConfigView) -> list[LayerCost]:
    """Qwen3.5 without experts: GDN or gated attention, then an MLP."""
    layers: list[LayerCost] = []
    for mixer in _qwen_mixers(config):
        layers += [mixer, mlp(config)]
    return layers


def qwen_moe(config: ConfigView) -> list[LayerCost]:
    """Qwen3-Next and Qwen3.5 with experts: GDN or gated attention, then experts."""
    dense = config.integers("mlp_only_layers") or []
    stride = config.integer("decoder_sparse_step", default=1)
    sparse = experts(
        config,
        intermediate=config.integer("moe_intermediate_size"),
        shared=config.integer("shared_expert_intermediate_size"),
    )
    layers: list[LayerCost] = []
    for layer, mixer in enumerate(_qwen_mixers(config)):
        has_experts = layer not in dense and (layer + 1) % stride == 0
        layers += [mixer, sparse if has_experts else mlp(config)]
    return layers


def intern_s2_mobius(config: ConfigView) -> list[LayerCost]:
    """Intern-S2 Mobius: Qwen3.5 whose layers take turns with a few banks of experts."""
    banks = config.integer("num_blocks", default=4)
    layers: list[LayerCost] = []
    for layer, mixer in enumerate(_qwen_mixers(config)):
        bank = experts(
            config,
            intermediate=config.integer("moe_intermediate_size"),
            shared=config.integer("shared_expert_intermediate_size"),
        )
        layers += [mixer, replace(bank, reused=layer >= banks)]
    return layers


def kimi_linear(config: ConfigView) -> list[LayerCost]:
    """Kimi-Linear and the text part of Kimi K3: KDA or MLA, then experts or an MLP.

    The block-wise attention residuals of K3 are not counted: for each sublayer a dot product
    and a weighted sum over one stream for each of the earlier blocks, ``4 * hidden * blocks``
    FLOPs, less than one in a thousand.
    """
    kda = config.section("linear_attn_config")
    at = kda.integers("kda_layers")
    if at is None:
        raise kda.error("kda_layers", "a list of integers", at)
    delta = KimiDeltaAttention(
        hidden=config.integer("hidden_size"),
        heads=kda.integer("num_heads"),
        head_dim=kda.integer("head_dim"),
        conv_kernel=kda.integer("short_conv_kernel_size"),
        full_rank_gate=kda.flag("use_full_rank_gate", default=False),
    )
    gated = config.flag("mla_use_output_gate", default=False)
    value = config.integer("num_attention_heads") * config.integer("v_head_dim")
    full = latent_attention(config, gate_dim=value if gated else 0)
    layers: list[LayerCost] = []
    for layer in range(config.integer("num_hidden_layers")):
        # The config numbers the layers from 1.
        layers += [delta if layer + 1 in at else full, _kimi_feedforward(config, layer)]
    return layers


def gigachat(config: ConfigView) -> list[LayerCost]:
    """GigaChat 3.5: GDN or gated MLA, then experts or an MLP.

    The low-rank gates inside its norms are not counted: 16 channels wide, less than half a per
    cent of a layer.
    """
    gated = config.flag("gated_attention", default=False)
    value = config.integer("num_attention_heads") * config.integer("v_head_dim")
    full = latent_attention(config, gate_dim=value if gated else 0)
    intermediate = config.integer("moe_intermediate_size")
    shared = intermediate * config.integer("n_shared_experts", default=0)
    layers: list[LayerCost] = []
    for layer, is_full in enumerate(_gigachat_full_layers(config)):
        layers.append(full if is_full else gated_delta_net(config))
        if is_sparse(config, layer):
            layers.append(experts(config, intermediate=intermediate, shared=shared))
        else:
            layers.append(mlp(config))
    return layers


def jet_nemotron(config: ConfigView) -> list[LayerCost]:
    """Jet-Nemotron: JetBlocks with a few full and sliding-window layers, an MLP after each."""
    types = config.strings("layer_types")
    if types is None:
        raise config.error("layer_types", "a list", types)
    layers: list[LayerCost] = []
    for layer_type in types:
        layers += [_jet_mixer(config, layer_type), mlp(config)]
    return layers


def _qwen_mixers(config: ConfigView) -> list[LayerCost]:
    types = config.strings("layer_types", "layers_block_type")
    if types is None:
        interval = config.integer("full_attention_interval", default=4)
        types = [
            "linear_attention" if (layer + 1) % interval else "full_attention"
            for layer in range(config.integer("num_hidden_layers"))
        ]
    full = attention(config, gated=config.flag("attn_output_gate", default=True))
    mixers: list[LayerCost] = []
    for layer_type in types:
        if layer_type == "linear_attention":
            mixers.append(gated_delta_net(config))
        elif layer_type in _FULL_ATTENTION_TYPES:
            mixers.append(full)
        else:
            raise UnknownLayerError(layer_type, config.model_type)
    return mixers


def _kimi_feedforward(config: ConfigView, layer: int) -> LayerCost:
    if config.get("num_experts") is None or not is_sparse(config, layer):
        return mlp(config)
    intermediate = config.integer("moe_intermediate_size")
    latent = config.get("routed_expert_hidden_size")
    return experts(
        config,
        intermediate=intermediate,
        shared=intermediate * config.integer("num_shared_experts", default=0),
        latent=None if latent is None else config.integer("routed_expert_hidden_size"),
    )


def _gigachat_full_layers(config: ConfigView) -> list[bool]:
    count = config.integer("num_hidden_layers")
    types = config.strings("layer_types")
    if types is None:
        at = config.integers("full_attention_layers") or []
        return [layer in at for layer in range(count)]
    for layer_type in types:
        if layer_type != "linear_attention" and layer_type not in _FULL_ATTENTION_TYPES:
            raise UnknownLayerError(layer_type, config.model_type)
    return [layer_type in _FULL_ATTENTION_TYPES for layer_type in types]


def _jet_mixer(config: ConfigView, layer_type: str) -> LayerCost:
    if layer_type == "attn":
        return attention(config)
    if layer_type not in ("swa", "jet"):
        raise UnknownLayerError(layer_type, config.model_type)
    options = config.section("efficient_attention_config").section(layer_type)
    if layer_type == "swa":
        return attention(config, window=options.integer("window_size"))
    key_dim = options.integer("head_dim")
    expand = options.get("expand_v")
    if not isinstance(expand, int | float):
        raise options.error("expand_v", "a number", expand)
    return JetBlock(
        hidden=config.integer("hidden_size"),
        heads=options.integer("num_heads"),
        key_dim=key_dim,
        value_dim=int(key_dim * expand),
        conv_kernel=options.integer("conv_size"),
        generator_reduction=options.integer("dconv_generator_reduction"),
    )
