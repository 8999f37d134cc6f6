"""Kimi-K3's attention residual on a CPU, under the signature SGLang calls it with."""

from typing import Any

import torch
from torch import Tensor


def mix_fused(
    prefix_sum: Tensor, bank: Tensor, nvb: int, score_proj: Any, score_norm: Any
) -> Tensor:
    """A mixture of the residual stream and snapshots of it from earlier layers.

    Each is scored by a projection of its RMS norm; the softmax of the scores are the weights.

    Args:
        prefix_sum: ``(tokens, features)``, the stream.
        bank: ``(tokens, snapshots, features)``, of which the first ``nvb`` are mixed in.
        score_proj: its ``weight`` has ``features`` elements.
        score_norm: SGLang's ``RMSNorm``: ``weight`` ``(features,)`` and ``variance_epsilon``.

    Returns:
        Like ``prefix_sum``; computed in float32.
    """
    rows = torch.cat([bank[:, :nvb], prefix_sum[:, None]], 1).float()
    weight = score_norm.weight.float() * score_proj.weight.float().flatten()
    scale = torch.rsqrt(rows.square().mean(-1) + score_norm.variance_epsilon)
    weights = torch.softmax(torch.matmul(rows, weight) * scale, -1)
    return torch.einsum("tr,trf->tf", weights, rows).to(prefix_sum.dtype)
