"""Families with a residual connection of several streams: GLM-5-Next, Qwen4-Exp."""

from __future__ import annotations

from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.delta import KimiDeltaAttention
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
from sglang_marconi.cost.sparse import BlockIndexer, LightningIndexer
from sglang_marconi.cost.streams import (
    GatedResidual,
    HyperConnection,
    NGramContext,
    NGramEmbedding,
)

_LINEAR = "linear_attention"
# Names that configs have for one and the same kind of layer.
_FULL = ("attention", "full_attention", "indexed_attention", "qwen_sparse_attention")
_DENSE_FIRST = 3


def glm5_next(config: ConfigView) -> list[LayerCost]:
    """GLM-5-Next: KDA or sparse latent attention, then experts or an MLP.

    With ``mhc`` a hyper-connection stands before each. Layers may share the choice of keys with
    the one before and then have no indexer.
    """
    delta, selected = _glm_delta(config), config.get("index_topk")
    full = latent_attention(
        config, selected=None if selected is None else config.integer("index_topk")
    )
    streams: list[LayerCost] = []
    if config.flag("mhc", default=False):
        streams = [HyperConnection(full.hidden, config.integer("hc_mult", default=4))]
    layers: list[LayerCost] = []
    for layer, is_linear in enumerate(_glm_linear_layers(config)):
        if is_linear:
            layers.append(delta)
        else:
            layers.append(full)
            if selected is not None and not _shares_selection(config, layer):
                layers.append(_glm_indexer(config))
        layers += [_glm_feedforward(config, layer), *streams, *streams]
    return layers


def qwen4_exp(config: ConfigView) -> list[LayerCost]:
    """Qwen4-Exp: GDN or gated attention over chosen keys, then experts.

    Both stand behind hyper-connections, and a few layers add embeddings of the last tokens to
    all streams. ``parameters`` has the tables of those, to within a few rows.
    """
    hidden = config.integer("hidden_size")
    streams = config.integer("hc_count", default=4)
    rank = config.integer("hc_lowrank", default=320)
    residual = GatedResidual(hidden, streams, rank)
    feedforward = experts(
        config,
        intermediate=config.integer("moe_intermediate_size"),
        shared=config.integer("shared_expert_intermediate_size"),
    )
    full = _qwen4_attention(config)
    layers: list[LayerCost] = [GatedResidual(hidden, streams, rank, writes=False)]
    for layer_type in _qwen4_types(config):
        if layer_type == _LINEAR:
            layers.append(gated_delta_net(config))
        elif layer_type in _FULL:
            layers += full
        else:
            raise UnknownLayerError(layer_type, config.model_type)
        layers += [feedforward, residual, residual]
    return [*layers, *_qwen4_embeddings(config, hidden, streams)]


def _glm_delta(config: ConfigView) -> KimiDeltaAttention:
    hidden = config.integer("hidden_size")
    if config.get("linear_attn_config") is None:
        return KimiDeltaAttention(
            hidden=hidden,
            heads=config.integer("linear_num_heads", default=64),
            head_dim=config.integer("linear_head_dim", default=128),
            conv_kernel=config.integer("linear_conv_kernel_dim", default=4),
        )
    kda = config.section("linear_attn_config")
    return KimiDeltaAttention(
        hidden=hidden,
        heads=kda.integer("num_heads"),
        head_dim=kda.integer("head_dim"),
        conv_kernel=kda.integer("short_conv_kernel_size"),
    )


def _glm_linear_layers(config: ConfigView) -> list[bool]:
    count = config.integer("num_hidden_layers")
    if config.get("linear_attn_config") is not None:
        # Numbered from 0, where Kimi-Linear's are numbered from 1.
        at = config.section("linear_attn_config").integers("kda_layers") or []
        return [layer in at for layer in range(count)]
    types = config.strings("layer_types")
    if types is None:
        return [layer % 4 != 3 for layer in range(count)]
    for layer_type in types:
        if layer_type != _LINEAR and layer_type not in _FULL:
            raise UnknownLayerError(layer_type, config.model_type)
    return [layer_type == _LINEAR for layer_type in types]


def _glm_indexer(config: ConfigView) -> LayerCost:
    return LightningIndexer(
        hidden=config.integer("hidden_size"),
        q_rank=config.integer("q_lora_rank"),
        heads=config.integer("index_n_heads"),
        head_dim=config.integer("index_head_dim"),
        pool=config.integer("index_kpool", default=1),
    )


def _shares_selection(config: ConfigView, layer: int) -> bool:
    """Whether a layer attends to the keys chosen for the one before (``dsa_layer_skips_topk``)."""
    types = config.strings("indexer_types")
    if types is not None:
        return types[layer] == "shared"
    pattern = config.get("index_topk_pattern")
    if isinstance(pattern, str):
        return pattern[layer : layer + 1] == "S"
    offset = config.integer("index_skip_topk_offset", default=2)
    return max(layer - offset + 1, 0) % config.integer("index_topk_freq", default=1) != 0


def _glm_feedforward(config: ConfigView, layer: int) -> LayerCost:
    if not is_sparse(config, layer, dense_first=_DENSE_FIRST):
        return mlp(config)
    width = config.integer("moe_intermediate_size")
    shared = config.integer("n_shared_experts", default=1)
    return experts(config, intermediate=width, shared=shared * width)


def _qwen4_types(config: ConfigView) -> list[str]:
    types = config.strings("layer_types")
    if types is not None:
        return types
    interval = config.integer("full_attention_interval", default=4)
    return [
        _LINEAR if (layer + 1) % interval else _FULL[0]
        for layer in range(config.integer("num_hidden_layers"))
    ]


def _qwen4_attention(config: ConfigView) -> list[LayerCost]:
    if config.get("indexer_n_heads") is None:
        return [attention(config, gated=True)]
    chosen = attention(config, gated=True, selected=config.integer("indexer_budget"))
    indexer = BlockIndexer(
        hidden=chosen.hidden,
        heads=config.integer("indexer_n_heads"),
        head_dim=config.integer("indexer_head_dim"),
        pool=config.integer("indexer_compress_ratio"),
    )
    return [chosen, indexer]


def _qwen4_embeddings(config: ConfigView, hidden: int, streams: int) -> list[LayerCost]:
    at = config.integers("ple_layer_ids") or []
    if not at:
        return []
    ngram = config.integer("ngram_size", default=3)
    embedding = config.integer("ple_embed_dim", default=hidden)
    # Each hash has a table of about as many rows, and its share of the embedding.
    rows = config.integer("ngram_vocab_size_base", default=20_000_000)
    layer = NGramEmbedding(
        hidden=hidden,
        streams=streams,
        embedding=embedding,
        conv_kernel=config.integer("ple_conv_kernel_size", default=4),
        ngram=ngram,
        table=rows * embedding,
    )
    return [NGramContext(ngram), *[layer] * len(set(at))]
