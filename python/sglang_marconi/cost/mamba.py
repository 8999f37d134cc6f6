"""Selective state-space layers: Mamba (1) and Mamba2."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_marconi.cost.layer import LayerCost, StateTerm, shard, shard_or_replicate


@dataclass(frozen=True, slots=True)
class Mamba1(LayerCost):
    """Mamba, arXiv 2312.00752, section 3.4 and algorithm 2.

    ``inner`` channels with ``state`` recurrent elements each; the convolution runs over
    the channels alone, and the input-dependent B, C and (through ``dt_rank``) step size
    are projected after it. The scan adds an outer product to the state and reads it out:
    4 FLOPs per state element and token.
    """

    hidden: int
    inner: int
    state_dim: int
    conv_kernel: int
    dt_rank: int

    def weights(self, tp: int) -> float:
        inner = shard(self.inner, tp, "Mamba channels")
        parameters = self.dt_rank + 2 * self.state_dim
        return float(inner * (3 * self.hidden + self.conv_kernel + parameters + self.dt_rank))

    def scan_flops(self, tp: int) -> float:
        return 4.0 * self.state(tp).recurrent

    def state(self, tp: int) -> StateTerm:
        inner = shard(self.inner, tp, "Mamba channels")
        return StateTerm(inner, 1, self.state_dim, inner * (self.conv_kernel - 1))


@dataclass(frozen=True, slots=True)
class Mamba2(LayerCost):
    """Mamba2, arXiv 2405.21060, section 7 (block) and 2.1 (recurrence).

    One input projection gives the gate and x (``heads * head_dim`` each), B and C
    (``groups * state_dim`` each) and a step size per head; the convolution runs over x, B
    and C. The scan adds an outer product to the state and reads it out: 4 FLOPs per state
    element and token. Where there are fewer groups than ranks, each rank keeps a copy of the
    one its heads use.
    """

    hidden: int
    heads: int
    head_dim: int
    groups: int
    state_dim: int
    conv_kernel: int

    def weights(self, tp: int) -> float:
        heads = shard(self.heads, tp, "Mamba heads")
        inner = heads * self.head_dim
        conv = self._conv_channels(tp)
        projections = self.hidden * (inner + conv + heads) + inner * self.hidden
        return float(projections + conv * self.conv_kernel)

    def scan_flops(self, tp: int) -> float:
        return 4.0 * self.state(tp).recurrent

    def state(self, tp: int) -> StateTerm:
        heads = shard(self.heads, tp, "Mamba heads")
        conv = self._conv_channels(tp) * (self.conv_kernel - 1)
        return StateTerm(heads, self.head_dim, self.state_dim, conv)

    def _conv_channels(self, tp: int) -> int:
        groups = shard_or_replicate(self.groups, tp, "Mamba groups")
        inner = shard(self.heads, tp, "Mamba heads") * self.head_dim
        return inner + 2 * groups * self.state_dim
