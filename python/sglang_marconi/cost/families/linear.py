"""Families built on lightning attention or short convolutions: Ling, MiniMax, MiniCPM, LFM2."""

from __future__ import annotations

from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.delta import KimiDeltaAttention
from sglang_marconi.cost.errors import UnknownLayerError
from sglang_marconi.cost.families.common import (
    attention,
    experts,
    is_sparse,
    latent_attention,
    mlp,
)
from sglang_marconi.cost.feedforward import MLP
from sglang_marconi.cost.layer import LayerCost
from sglang_marconi.cost.linear import LightningAttention, ShortConvolution
from sglang_marconi.cost.sparse import PooledKeys

_LINEAR, _FULL = "linear_attention", "full_attention"
# As SGLang's config of MiniCPM-SALA takes them.
_MINICPM_FULL = ("minicpm4", "minicpm", "standard", "attention", "attn")
_MINICPM_LIGHTNING = ("lightning", "lightning_attn", "lightning-attn")


def bailing(config: ConfigView) -> list[LayerCost]:
    """Ling and Ring: linear attention with every n-th layer softmax, then experts or an MLP.

    Version 2.0 has lightning attention with GQA, 2.5 lightning attention with MLA, and 3
    KDA with MLA.
    """
    mixers = {_LINEAR: _bailing_linear(config), _FULL: _bailing_full(config)}
    layers: list[LayerCost] = []
    for layer, layer_type in enumerate(_bailing_types(config)):
        layers += [mixers[layer_type], _bailing_feedforward(config, layer)]
    return layers


def minimax(config: ConfigView) -> list[LayerCost]:
    """MiniMax-Text-01 and M1: lightning attention, every eighth layer softmax, experts."""
    full = attention(config)
    mixers = {
        _LINEAR: LightningAttention(full.hidden, full.heads, full.head_dim),
        _FULL: full,
    }
    codes = config.integers("attn_type_list")
    if codes is None:
        types = config.strings("layer_types")
    else:
        types = [{0: _LINEAR, 1: _FULL}.get(code, str(code)) for code in codes]
    if types is None:
        raise config.error("attn_type_list", "a list", types)
    feedforward = experts(
        config,
        intermediate=config.integer("intermediate_size"),
        shared=config.integer("shared_intermediate_size", default=0),
    )
    layers: list[LayerCost] = []
    for layer_type in types:
        if layer_type not in mixers:
            raise UnknownLayerError(layer_type, config.model_type)
        layers += [mixers[layer_type], feedforward]
    return layers


def minicpm_sala(config: ConfigView) -> list[LayerCost]:
    """MiniCPM-SALA: lightning attention, or attention over chosen blocks, then an MLP.

    A token attends to ``topk`` blocks and to the window before it. That it attends to all keys
    where the whole prompt is shorter than ``dense_len`` is left out.
    """
    dense = attention(config)
    gated = config.flag("use_output_gate", default=False)
    lightning = LightningAttention(
        hidden=dense.hidden,
        heads=config.integer("lightning_nh", default=dense.heads),
        head_dim=config.integer("lightning_head_dim", default=dense.head_dim),
        gated=gated,
    )
    mixers = {name: _minicpm_attention(config) for name in _MINICPM_FULL}
    mixers |= {name: [lightning] for name in _MINICPM_LIGHTNING}
    types = config.strings("mixer_types") or [_MINICPM_FULL[0]]
    layers: list[LayerCost] = []
    for layer in range(config.integer("num_hidden_layers")):
        # A shorter list is repeated.
        layer_type = types[layer % len(types)]
        if layer_type not in mixers:
            raise UnknownLayerError(layer_type, config.model_type)
        layers += [*mixers[layer_type], mlp(config)]
    return layers


def lfm2(config: ConfigView) -> list[LayerCost]:
    """LFM2: short convolutions with a few attention layers, an MLP after each."""
    feedforward = MLP(config.integer("hidden_size"), _lfm2_intermediate(config))
    layers: list[LayerCost] = []
    for mixer in _lfm2_mixers(config):
        layers += [mixer, feedforward]
    return layers


def lfm2_moe(config: ConfigView) -> list[LayerCost]:
    """LFM2 with experts after the first few layers."""
    dense = config.integer("num_dense_layers")
    sparse = experts(config, intermediate=config.integer("moe_intermediate_size"))
    layers: list[LayerCost] = []
    for layer, mixer in enumerate(_lfm2_mixers(config)):
        layers += [mixer, mlp(config) if layer < dense else sparse]
    return layers


def _minicpm_attention(config: ConfigView) -> list[LayerCost]:
    gated = config.flag("attn_use_output_gate", default=False)
    if config.get("sparse_config") is None:
        return [attention(config, gated=gated)]
    sparse = config.section("sparse_config")
    selected = sparse.integer("topk") * sparse.integer("block_size")
    chosen = attention(config, gated=gated, selected=selected + sparse.integer("window_size"))
    pool = sparse.integer("kernel_stride")
    return [chosen, PooledKeys(chosen.heads, chosen.kv_heads, chosen.head_dim, pool)]


def _bailing_types(config: ConfigView) -> list[str]:
    count = config.integer("num_hidden_layers")
    group = config.get("layer_group_size")
    if isinstance(group, int):
        return [_LINEAR if (layer + 1) % group else _FULL for layer in range(count)]
    schedule = config.integers("layer_group_size")
    if schedule is None:
        raise config.error("layer_group_size", "an integer or a list", group)
    return [_LINEAR if code == 1 else _FULL for code in schedule]


def _bailing_linear(config: ConfigView) -> LayerCost:
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    head_dim = config.integer("head_dim", default=hidden // heads)
    if config.get("short_conv_kernel_size") is None:
        return LightningAttention(hidden, heads, head_dim)
    full_rank = config.flag("no_kda_lora", default=False)
    return KimiDeltaAttention(
        hidden=hidden,
        heads=heads,
        head_dim=head_dim,
        conv_kernel=config.integer("short_conv_kernel_size"),
        full_rank_decay=full_rank,
        full_rank_gate=full_rank,
    )


def _bailing_full(config: ConfigView) -> LayerCost:
    kind = config.get("full_attention_type")
    if kind is None:
        kind = "gqa" if config.get("kv_lora_rank") is None else "mla"
    if kind != "mla":
        return attention(config)
    heads = config.integer("num_attention_heads")
    gate = config.get("gated_attention_proj_granularity_type")
    if gate is None:
        return latent_attention(config)
    if gate == "head_wise":
        return latent_attention(config, gate_dim=heads)
    if gate == "element_wise":
        return latent_attention(config, gate_dim=heads * config.integer("v_head_dim"))
    raise UnknownLayerError(f"MLA with a {gate} gate", config.model_type)


def _bailing_feedforward(config: ConfigView, layer: int) -> LayerCost:
    if config.integer("num_experts") == 1 or not is_sparse(config, layer):
        return mlp(config)
    intermediate = config.integer("moe_intermediate_size")
    shared = config.integer(
        "moe_shared_expert_intermediate_size",
        default=intermediate * config.integer("num_shared_experts", default=0),
    )
    return experts(config, intermediate=intermediate, shared=shared)


def _lfm2_mixers(config: ConfigView) -> list[LayerCost]:
    types = config.strings("layer_types")
    if types is None:
        at = config.integers("full_attn_idxs")
        if at is None:
            raise config.error("layer_types", "a list", types)
        count = config.integer("num_hidden_layers")
        types = [_FULL if layer in at else "conv" for layer in range(count)]
    conv = ShortConvolution(config.integer("hidden_size"), config.integer("conv_L_cache"))
    mixers: list[LayerCost] = []
    for layer_type in types:
        if layer_type in ("conv", "short_conv"):
            mixers.append(conv)
        elif layer_type == _FULL:
            mixers.append(attention(config))
        else:
            raise UnknownLayerError(layer_type, config.model_type)
    return mixers


def _lfm2_intermediate(config: ConfigView) -> int:
    """The MLP's width, which the model derives from the configured one."""
    width = config.integer("block_ff_dim", "intermediate_size")
    if not config.flag("block_auto_adjust_ff_dim", default=True):
        return width
    width = 2 * width // 3
    multiplier = config.get("block_ffn_dim_multiplier")
    if isinstance(multiplier, int | float):
        width = int(multiplier * width)
        multiple = config.integer("block_multiple_of", default=256)
        width = -(-width // multiple) * multiple
    return width
