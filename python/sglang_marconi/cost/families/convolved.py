"""Families whose only states are windows of convolutions in their attention: Zaya, Inkling."""

from __future__ import annotations

from dataclasses import replace

from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.convolved import (
    CompressedConvolutionalAttention,
    RelativeAttention,
    StreamConvolutions,
)
from sglang_marconi.cost.errors import UnknownLayerError
from sglang_marconi.cost.families.common import experts
from sglang_marconi.cost.feedforward import MLP, MixtureOfExperts
from sglang_marconi.cost.layer import LayerCost

_SLIDING = "hybrid_sliding"
_HYBRID_TYPES = ("hybrid", _SLIDING)


def zaya(config: ConfigView) -> list[LayerCost]:
    """Zaya: convolved attention and experts in turn.

    Its router may send a token past all experts; none is counted as if it did so. The config is
    that of the checkpoints and of SGLang, which counts attention and experts as layers of their
    own, or that of transformers, which counts both as one.
    """
    if config.get("router_hidden_size") is not None:
        types = config.strings("layer_types") or []
        for layer_type in types:
            # SGLang 0.5.23 has no windows for this family.
            if layer_type != "hybrid":
                raise UnknownLayerError(layer_type, config.model_type)
        router = config.integer("router_hidden_size")
        width = config.integer("moe_intermediate_size")
        count = config.integer("num_hidden_layers")
        return [_zaya_attention(config), _zaya_experts(config, router, width)] * count
    router = _first(config, "zaya_mlp_expansion")
    # The configured width is that of gate and input together.
    width = _first(config, "ffn_hidden_size_list", "ffn_hidden_size") // 2
    pair = [_zaya_attention(config), _zaya_experts(config, router, width)]
    layers = config.get("zaya_layers")
    if isinstance(layers, list):
        return [pair[0] if layer == "a" else pair[1] for layer in layers]
    return [pair[layer % 2] for layer in range(config.integer("num_hidden_layers"))]


def inkling(config: ConfigView) -> list[LayerCost]:
    """Inkling: attention, most of it with windows, between short convolutions, then experts.

    The widths of its MLP and its experts go by other names in SGLang's config than in
    transformers'.
    """
    hidden = config.integer("hidden_size")
    kernel = config.integer("sconv_kernel_size", "conv_kernel_size")
    dense = MLP(hidden, config.integer("dense_intermediate_size", "intermediate_size"))
    sparse = _inkling_experts(config)
    layers: list[LayerCost] = []
    for slides, is_dense in zip(
        _inkling_windows(config), _inkling_dense_layers(config), strict=True
    ):
        kv, other = ("swa_", "") if slides else ("", "swa_")
        relative = _inkling_attention(config, kv, slides)
        convolutions = StreamConvolutions(
            hidden=hidden,
            kv_heads=relative.kv_heads,
            head_dim=relative.head_dim,
            unused_heads=config.integer(f"{other}num_key_value_heads"),
            unused_dim=config.integer(f"{other}head_dim"),
            conv_kernel=kernel,
        )
        layers += [relative, convolutions, dense if is_dense else sparse]
    return layers


def _zaya_attention(config: ConfigView) -> LayerCost:
    heads = _first(config, "cca_num_q_heads_list", "cca_num_q_heads", "num_attention_heads")
    return CompressedConvolutionalAttention(
        hidden=config.integer("hidden_size"),
        heads=heads,
        kv_heads=_first(config, "num_query_groups_list", "num_key_value_heads"),
        head_dim=config.integer("head_dim", "kv_channels"),
        first_kernel=config.integer("cca_time0"),
        second_kernel=config.integer("cca_time1"),
    )


def _zaya_experts(config: ConfigView, router: int, width: int) -> LayerCost:
    hidden = config.integer("hidden_size")
    count = config.integer("num_experts")
    classes = count + config.flag("zaya_use_mod", default=True)
    return MixtureOfExperts(
        hidden=hidden,
        intermediate=width,
        experts=count,
        active=config.integer("moe_router_topk", "num_experts_per_tok", default=1),
        router=router * (hidden + 2 * router + classes),
    )


def _first(config: ConfigView, *names: str) -> int:
    """A number that may be listed layer by layer, with zeros for layers of the other kind."""
    value = config.get(*names)
    if isinstance(value, list):
        listed = config.integers(*names) or []
        return next((number for number in listed if number), 0)
    return config.integer(*names)


def _inkling_attention(config: ConfigView, kind: str, slides: bool) -> RelativeAttention:
    window = config.integer("sliding_window_size") if slides else None
    return RelativeAttention(
        hidden=config.integer("hidden_size"),
        heads=config.integer(f"{kind}num_attention_heads"),
        kv_heads=config.integer(f"{kind}num_key_value_heads"),
        head_dim=config.integer(f"{kind}head_dim"),
        relative=config.integer("d_rel"),
        extent=config.integer("rel_extent") if window is None else window,
        window=window,
    )


def _inkling_experts(config: ConfigView) -> LayerCost:
    width = config.integer("moe_intermediate_size", "intermediate_size")
    shared = config.integer("n_shared_experts", default=0)
    sparse = experts(config, intermediate=width, shared=shared * width)
    # The router weighs the shared experts, too.
    classes = sparse.experts + (shared if config.flag("shared_expert_sink", default=True) else 0)
    return replace(sparse, router=sparse.hidden * classes)


def _inkling_windows(config: ConfigView) -> list[bool]:
    types = config.strings("layer_types")
    if types is None:
        local = config.integers("local_layer_ids") or []
        return [layer in local for layer in range(config.integer("num_hidden_layers"))]
    for layer_type in types:
        if layer_type not in _HYBRID_TYPES:
            raise UnknownLayerError(layer_type, config.model_type)
    return [layer_type == _SLIDING for layer_type in types]


def _inkling_dense_layers(config: ConfigView) -> list[bool]:
    types = config.strings("mlp_layer_types")
    if types is None:
        first = config.integer("dense_mlp_idx", default=0)
        return [layer < first for layer in range(config.integer("num_hidden_layers"))]
    return [layer_type == "dense" for layer_type in types]
