"""Delta-rule linear attention: Gated DeltaNet, Kimi Delta Attention, JetBlock.

The recurrence of all three, per value head with a state S of key_dim x value_dim: read
what S holds for the key, write the difference to the value back, read S with the query.
Three products of 2 FLOPs per state element and token; the decay is elementwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_marconi.cost.layer import LayerCost, StateTerm, shard


@dataclass(frozen=True, slots=True)
class GatedDeltaNet(LayerCost):
    """Gated DeltaNet (GDN), arXiv 2412.06464, section 3; Qwen3-Next, Qwen3.5.

    Queries and keys have ``key_heads`` heads, values and the output gate
    ``value_heads``; decay and write strength are one scalar per value head. The
    convolution runs over queries, keys and values.
    """

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int

    def weights(self, tp: int) -> float:
        value_heads = shard(self.value_heads, tp, "value heads")
        value = value_heads * self.value_dim
        conv = self._conv_channels(tp)
        projections = self.hidden * (conv + value + 2 * value_heads) + value * self.hidden
        return float(projections + conv * self.conv_kernel)

    def scan_flops(self, tp: int) -> float:
        return 6.0 * self.state(tp).recurrent

    def state(self, tp: int) -> StateTerm:
        heads = shard(self.value_heads, tp, "value heads")
        conv = self._conv_channels(tp) * (self.conv_kernel - 1)
        return StateTerm(heads, self.value_dim, self.key_dim, conv)

    def _conv_channels(self, tp: int) -> int:
        keys = shard(self.key_heads, tp, "key heads") * self.key_dim
        return 2 * keys + shard(self.value_heads, tp, "value heads") * self.value_dim


@dataclass(frozen=True, slots=True)
class KimiDeltaAttention(LayerCost):
    """Kimi Delta Attention (KDA), arXiv 2510.26692, section 3; Kimi-Linear, Ling 3.

    Decay per key channel instead of per head. The decay and the output gate are
    projected through ``head_dim`` channels (the narrow half replicated on every rank),
    or directly where ``full_rank_decay`` or ``full_rank_gate``. The convolution runs over
    queries, keys and values, all ``heads * head_dim`` wide.
    """

    hidden: int
    heads: int
    head_dim: int
    conv_kernel: int
    full_rank_decay: bool = False
    full_rank_gate: bool = False

    def weights(self, tp: int) -> float:
        heads = shard(self.heads, tp, "KDA heads")
        inner = heads * self.head_dim
        full_rank = self.full_rank_decay + self.full_rank_gate
        wide = (4 + full_rank) * inner + heads
        low_rank = (2 - full_rank) * self.head_dim * (self.hidden + inner)
        return float(self.hidden * wide + low_rank + 3 * inner * self.conv_kernel)

    def scan_flops(self, tp: int) -> float:
        return 6.0 * self.state(tp).recurrent

    def state(self, tp: int) -> StateTerm:
        heads = shard(self.heads, tp, "KDA heads")
        conv = 3 * heads * self.head_dim * (self.conv_kernel - 1)
        return StateTerm(heads, self.head_dim, self.head_dim, conv)


@dataclass(frozen=True, slots=True)
class JetBlock(LayerCost):
    """JetBlock of Jet-Nemotron, arXiv 2508.15884.

    Gated DeltaNet whose only convolution is over the values, with kernels that a two-layer
    generator (narrowed by ``generator_reduction``) computes for each token: their
    multiply-adds involve no stored weight. The window that SGLang allocates is that of
    queries, keys and values all the same, and is counted so.
    """

    hidden: int
    heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int
    generator_reduction: int

    def weights(self, tp: int) -> float:
        heads = shard(self.heads, tp, "JetBlock heads")
        value = heads * self.value_dim
        projections = self.hidden * (2 * heads * self.key_dim + 3 * value + 2 * heads)
        width = self.heads * self.value_dim // self.generator_reduction
        generator = width * (self.hidden / tp + value * self.conv_kernel)
        return projections + generator

    def scan_flops(self, tp: int) -> float:
        value = shard(self.heads, tp, "JetBlock heads") * self.value_dim
        return 6.0 * value * self.key_dim + 2.0 * value * self.conv_kernel

    def state(self, tp: int) -> StateTerm:
        heads = shard(self.heads, tp, "JetBlock heads")
        conv = heads * (2 * self.key_dim + self.value_dim) * (self.conv_kernel - 1)
        return StateTerm(heads, self.value_dim, self.key_dim, conv)
