"""Inputs of lightning attention."""

from __future__ import annotations

import torch
from sglang.kernels.ops.attention.linear.seg_la import SegLaMeta
from torch import Tensor

from support.recurrent_passes import Planned

# A state kept for good, two kinds of decay that models have, and one that forgets at once.
SLOPES = torch.tensor([1e-6, 0.0078, 0.84, 2.5])
HEADS, DIM = len(SLOPES), 64
SIZES = (HEADS, DIM, DIM)


def vectors(tokens: int, seed: int = 0, dim: int = DIM) -> list[Tensor]:
    """``q, k, v``."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tokens, HEADS, dim, generator=generator) for _ in range(3)]


def meta_of(planned: Planned) -> SegLaMeta:
    return SegLaMeta(
        batch_size=len(planned.rows),
        max_q_length=None,
        q_offsets=planned.bounds,
        s_offsets=planned.slots,
        q_lengths=planned.bounds.diff(),
        s_scales=planned.resumes,
    )
