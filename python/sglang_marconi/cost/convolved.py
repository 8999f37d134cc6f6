"""Attention with convolutions over its queries, keys or values, whose windows are states."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_marconi.cost.layer import KeyTerm, LayerCost, StateTerm, shard, shard_or_replicate


@dataclass(frozen=True, slots=True)
class CompressedConvolutionalAttention(LayerCost):
    """CCA, arXiv 2510.04476, section 3; Zaya.

    Attention in a space narrower than ``hidden``. Queries and keys pass two convolutions: one
    for each channel over ``first_kernel`` tokens, then one in which the channels of a head mix,
    over ``second_kernel``. Half of a value comes from the token before, so the state is the
    window of both convolutions and that token's hidden state, the latter on every rank. So are
    the projections of the values. Key/value heads have to divide over the ranks.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    first_kernel: int
    second_kernel: int

    def weights(self, tp: int) -> float:
        query = shard(self.heads, tp, "attention heads") * self.head_dim
        convolved = self._convolved(tp)
        projections = self.hidden * (convolved + query + self.kv_heads * self.head_dim)
        kernels = self.first_kernel + self.second_kernel * self.head_dim
        return float(projections + convolved * kernels)

    def keys(self, tp: int) -> KeyTerm:
        query = shard(self.heads, tp, "attention heads") * self.head_dim
        return KeyTerm(4.0 * query, 2 * shard(self.kv_heads, tp, "key/value heads") * self.head_dim)

    def state(self, tp: int) -> StateTerm:
        window = self.first_kernel - 1 + self.second_kernel - 1
        return StateTerm(conv=self._convolved(tp) * window + self.hidden)

    def _convolved(self, tp: int) -> int:
        heads = shard(self.heads, tp, "attention heads")
        return (heads + shard(self.kv_heads, tp, "key/value heads")) * self.head_dim


@dataclass(frozen=True, slots=True)
class RelativeAttention(LayerCost):
    """Attention of Inkling: ``InklingAttention`` in transformers.

    Grouped-query attention whose scores depend on the distance of the key: a projection gives
    each head ``relative`` channels, and one matrix, the same for all heads, turns them into a
    number for each of ``extent`` distances.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    relative: int
    extent: int
    window: int | None = None

    def weights(self, tp: int) -> float:
        heads = shard(self.heads, tp, "attention heads")
        kv = shard_or_replicate(self.kv_heads, tp, "key/value heads") * self.head_dim
        projections = heads * (2 * self.head_dim + self.relative) + 2 * kv
        return float(self.hidden * projections + self.relative * self.extent)

    def scan_flops(self, tp: int) -> float:
        # `weights` has the matrix once, and every head multiplies with it.
        again = shard(self.heads, tp, "attention heads") - 1
        return 2.0 * again * self.relative * self.extent

    def keys(self, tp: int) -> KeyTerm:
        query = shard(self.heads, tp, "attention heads") * self.head_dim
        kv = shard_or_replicate(self.kv_heads, tp, "key/value heads") * self.head_dim
        return KeyTerm(4.0 * query, 2 * kv, self.window)


@dataclass(frozen=True, slots=True)
class StreamConvolutions(LayerCost):
    """The four short convolutions of a layer of Inkling: ``InklingShortConvolution``.

    Over its keys, its values, and the outputs of attention and feed-forward, the latter two on
    every rank in full. SGLang gives every layer the windows of both kinds of layer, with a
    sliding window and without: ``unused_heads`` of ``unused_dim`` channels are of the other kind.
    """

    hidden: int
    kv_heads: int
    head_dim: int
    unused_heads: int
    unused_dim: int
    conv_kernel: int

    def weights(self, tp: int) -> float:
        return float(2 * (self._kv(self.kv_heads, self.head_dim, tp) + self.hidden)) * (
            self.conv_kernel
        )

    def state(self, tp: int) -> StateTerm:
        used = self._kv(self.kv_heads, self.head_dim, tp)
        unused = self._kv(self.unused_heads, self.unused_dim, tp)
        return StateTerm(conv=2 * (used + unused + self.hidden) * (self.conv_kernel - 1))

    @staticmethod
    def _kv(heads: int, head_dim: int, tp: int) -> int:
        return shard_or_replicate(heads, tp, "key/value heads") * head_dim
