"""The layers of newer families, as ``naive_layers`` has the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sglang_marconi.cost.convolved import (
    CompressedConvolutionalAttention,
    RelativeAttention,
    StreamConvolutions,
)
from sglang_marconi.cost.layer import LayerCost
from sglang_marconi.cost.sparse import BlockIndexer, LightningIndexer, PooledKeys
from sglang_marconi.cost.streams import (
    GatedResidual,
    HyperConnection,
    NGramContext,
    NGramEmbedding,
)
from torch import Tensor
from torch.nn import functional as F

from support.naive_layers import RUN as OLDER
from support.naive_layers import attend, causal_conv, heads_of, weight


def score(queries: Tensor, keys: Tensor, start: int, pool: int, weights: Tensor | None) -> None:
    """Queries (tokens, heads, d) from position ``start`` score pools of keys (tokens, d)."""
    for index in range(queries.shape[0]):
        full = (start + index + 1) // pool
        scores = queries[index] @ keys[:full].T
        if weights is not None:
            weights[index][None] @ scores.relu()


def lightning_indexer(layer: LightningIndexer, x: Tensor, start: int) -> None:
    latent = torch.randn(x.shape[0], layer.q_rank)
    queries = latent @ weight(layer.q_rank, layer.heads * layer.head_dim)
    keys = x @ weight(layer.hidden, layer.head_dim)
    if layer.pool > 1:
        keys = keys * (x @ weight(layer.hidden, layer.head_dim)).softmax(0)
    weights = x @ weight(layer.hidden, layer.heads)
    keys = torch.cat([torch.randn(start, layer.head_dim), keys])
    score(queries.unflatten(1, (layer.heads, -1)), keys, start, layer.pool, weights)


def block_indexer(layer: BlockIndexer, x: Tensor, start: int) -> None:
    projected = x @ weight(layer.hidden, (layer.heads + 1) * layer.head_dim)
    heads = projected.unflatten(1, (layer.heads + 1, -1))
    keys = torch.cat([torch.randn(start, layer.head_dim), heads[:, -1]])
    score(heads[:, :-1], keys, start, layer.pool, None)


def pooled_keys(layer: PooledKeys, x: Tensor, start: int) -> None:
    queries = torch.randn(x.shape[0], layer.heads, layer.head_dim)
    keys = torch.randn(start + x.shape[0], layer.head_dim)
    for pool in (layer.pool, 4 * layer.pool):
        score(queries, keys, start, pool, None)


def hyper_connection(layer: HyperConnection, x: Tensor, start: int) -> None:
    streams, count = x[:, None].repeat(1, layer.streams, 1), layer.streams
    made = streams.flatten(1) @ weight(count * layer.hidden, count * (count + 2))
    read, write, mix = made.split([count, count, count * count], 1)
    block = read[:, None] @ streams
    mix.unflatten(1, (count, count)) @ streams + write[:, :, None] @ block


def gated_residual(layer: GatedResidual, x: Tensor, start: int) -> None:
    wide = layer.streams * layer.hidden
    streams = x.repeat(1, layer.streams)
    streams * (streams @ weight(wide, layer.rank) @ weight(layer.rank, wide)).sigmoid()
    if layer.writes:
        streams @ weight(wide, layer.streams)


def ngram_embedding(layer: NGramEmbedding, x: Tensor, start: int) -> None:
    wide = layer.streams * layer.hidden
    embedded = torch.randn(x.shape[0], layer.embedding)
    keys = (embedded @ weight(layer.embedding, wide)).unflatten(1, (layer.streams, -1))
    gate = keys[:, :, None] @ x[:, None, :, None].expand(-1, layer.streams, -1, -1)
    value = gate[..., 0] * (embedded @ weight(layer.embedding, layer.hidden))[:, None]
    causal_conv(value.flatten(1), layer.conv_kernel)


def ngram_context(layer: NGramContext, x: Tensor, start: int) -> None:
    pass


def compressed_convolutional_attention(
    layer: CompressedConvolutionalAttention, x: Tensor, start: int
) -> None:
    query, kv = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    joined = torch.cat([x @ weight(layer.hidden, query), x @ weight(layer.hidden, kv)], 1)
    heads = layer.heads + layer.kv_heads
    joined = causal_conv(joined, layer.first_kernel)
    padded = F.pad(joined.T.unsqueeze(0), (layer.second_kernel - 1, 0))
    kernel = torch.randn(query + kv, layer.head_dim, layer.second_kernel)
    q, k = F.conv1d(padded, kernel, groups=heads)[0].T.split([query, kv], 1)
    v = torch.cat([x @ weight(layer.hidden, kv // 2), x @ weight(layer.hidden, kv - kv // 2)], 1)
    share = layer.heads // layer.kv_heads
    k, v = (
        torch.cat(
            [torch.randn(layer.kv_heads, start, layer.head_dim), heads_of(each, layer.kv_heads)], 1
        ).repeat_interleave(share, 0)
        for each in (k, v)
    )
    attend(heads_of(q, layer.heads), k, v, start, None) @ weight(query, layer.hidden)


def relative_attention(layer: RelativeAttention, x: Tensor, start: int) -> None:
    query, kv = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    relative = x @ weight(layer.hidden, layer.heads * layer.relative)
    relative.unflatten(1, (layer.heads, -1)) @ weight(layer.relative, layer.extent)
    share = layer.heads // layer.kv_heads
    k, v = (
        torch.cat(
            [
                torch.randn(layer.kv_heads, start, layer.head_dim),
                heads_of(x @ weight(layer.hidden, kv), layer.kv_heads),
            ],
            1,
        ).repeat_interleave(share, 0)
        for _ in range(2)
    )
    q = heads_of(x @ weight(layer.hidden, query), layer.heads)
    attend(q, k, v, start, layer.window) @ weight(query, layer.hidden)


def stream_convolutions(layer: StreamConvolutions, x: Tensor, start: int) -> None:
    kv = torch.randn(x.shape[0], layer.kv_heads * layer.head_dim)
    for channels in (kv, kv, x, x):
        causal_conv(channels, layer.conv_kernel)


RUN: dict[type[LayerCost], Callable[..., None]] = OLDER | {
    LightningIndexer: lightning_indexer,
    BlockIndexer: block_indexer,
    PooledKeys: pooled_keys,
    HyperConnection: hyper_connection,
    GatedResidual: gated_residual,
    NGramEmbedding: ngram_embedding,
    NGramContext: ngram_context,
    CompressedConvolutionalAttention: compressed_convolutional_attention,
    RelativeAttention: relative_attention,
    StreamConvolutions: stream_convolutions,
}
