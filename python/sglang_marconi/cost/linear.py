"""Recurrent layers whose state is written without looking at it.

Lightning attention (linear attention with a fixed decay) and short convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_marconi.cost.layer import LayerCost, StateTerm, shard


@dataclass(frozen=True, slots=True)
class LightningAttention(LayerCost):
    """Linear attention with a decay per head: arXiv 2401.04658; MiniMax-01, 2501.08313.

    The state of a head is head_dim x head_dim; a token adds the outer product of its key
    and value and reads with its query: 4 FLOPs per state element. ``gated``: a fourth
    projection gates the output. No convolution.
    """

    hidden: int
    heads: int
    head_dim: int
    gated: bool = True

    def weights(self, tp: int) -> float:
        inner = shard(self.heads, tp, "linear attention heads") * self.head_dim
        return float(self.hidden * inner * (5 if self.gated else 4))

    def scan_flops(self, tp: int) -> float:
        return 4.0 * self.state(tp).recurrent

    def state(self, tp: int) -> StateTerm:
        heads = shard(self.heads, tp, "linear attention heads")
        return StateTerm(heads, self.head_dim, self.head_dim)


@dataclass(frozen=True, slots=True)
class ShortConvolution(LayerCost):
    """Gated short convolution of LFM2, arXiv 2511.23404.

    One projection to three times ``hidden`` (two gates and the input), a causal
    convolution per channel, one projection back; its state is the convolution window.
    """

    hidden: int
    conv_kernel: int

    def weights(self, tp: int) -> float:
        channels = shard(self.hidden, tp, "convolution channels")
        return float(channels * (4 * self.hidden + self.conv_kernel))

    def state(self, tp: int) -> StateTerm:
        channels = shard(self.hidden, tp, "convolution channels")
        return StateTerm(conv=channels * (self.conv_kernel - 1))
