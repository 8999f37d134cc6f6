"""Gated norms on a CPU, under the signatures SGLang calls them with."""

import torch
from torch import Tensor
from torch.nn import functional as F


def layernorm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    z: Tensor | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
    activation: str = "swish",
) -> Tensor:
    """Layer or RMS norm of groups of features, gated by ``act(z)`` in front of it or behind it.

    Args:
        x: ``(..., features)``.
        weight: ``(features,)``.
        bias: ``(features,)`` or None.
        z: as many elements as ``x``, or None for no gate.
        group_size: features normed together; all of them by default.
        norm_before_gate: whether the gate comes behind the norm.
        is_rms_norm: leave the mean where it is (arXiv 1910.07467).
        activation: ``"silu"``, ``"swish"`` or ``"sigmoid"``.

    Returns:
        Like ``x``; computed in float32.

    Raises:
        NotImplementedError: the activation is another one.
    """
    value = x.float()
    gate = None if z is None else _activated(z.float().reshape(x.shape), activation)
    if gate is not None and not norm_before_gate:
        value = value * gate
    groups = value.reshape(*x.shape[:-1], -1, x.shape[-1] if group_size is None else group_size)
    if not is_rms_norm:
        groups = groups - groups.mean(-1, keepdim=True)
    result = _rms_normed(groups, eps).flatten(-2) * weight.float()
    if bias is not None:
        result += bias.float()
    if gate is not None and norm_before_gate:
        result *= gate
    return result.to(x.dtype)


def rms_norm_gated(
    x: Tensor,
    g: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str = "swish",
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
) -> Tensor:
    """RMS norm over the last dimension, gated by ``act(g)`` behind it.

    Args:
        x: ``(..., features)``. SGLang's kernel overwrites it with the result, ours leaves it.
        g: as many elements as ``x``.
        weight, bias: ``(features,)`` or None.
        activation: ``"silu"``, ``"swish"`` or ``"sigmoid"``.
        residual_in_fp32: of no effect without a residual.

    Returns:
        Like ``x``; computed in float32.

    Raises:
        NotImplementedError: a residual is given or asked for, which no hybrid model does, or the
            activation is another one.
    """
    if residual is not None or prenorm:
        raise NotImplementedError("rms_norm_gated with a residual needs a GPU")
    result = _rms_normed(x.float(), eps)
    if weight is not None:
        result = result * weight.float()
    if bias is not None:
        result = result + bias.float()
    return (result * _activated(g.float().reshape(x.shape), activation)).to(x.dtype)


def _rms_normed(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _activated(gate: Tensor, activation: str) -> Tensor:
    if activation in ("silu", "swish"):
        return F.silu(gate)
    if activation == "sigmoid":
        return torch.sigmoid(gate)
    raise NotImplementedError(f"activation {activation!r} of a gated norm")
