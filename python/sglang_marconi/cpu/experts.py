"""Mixtures of experts on a CPU, as SGLang's own runner for GPUs computes them.

SGLang's `moe_forward_native` knows neither experts without a gate nor limits of SwiGLU, and leaves
the scale of the routed output out, which it does for its runner on GPUs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Elements of weights that are copied to save a product for each expert: decode steps of small
# models, which consist of the calls.
GATHERED_ELEMENTS = 1 << 18


def moe_forward_native(layer: Any, x: Tensor, topk_output: Any, moe_runner_config: Any) -> Tensor:
    """Send tokens through the experts they are routed to.

    Args:
        layer: has ``w13_weight`` ``(experts, 2 * inner, features)``, the gate's rows first, or
            ``(experts, inner, features)`` without a gate, and ``w2_weight``
            ``(experts, features, inner)``; ``w13_weight_bias`` and ``w2_weight_bias`` if any.
        x: ``(tokens, features)``.
        topk_output: SGLang's ``StandardTopKOutput``: ``topk_weights`` and ``topk_ids``, both
            ``(tokens, k)``. A negative id is no expert and adds nothing.
        moe_runner_config: SGLang's ``MoeRunnerConfig``.

    Returns:
        Like ``x``; an expert's output is in that dtype, the sum over experts in float32.

    Raises:
        NotImplementedError: weights on the input, or an unknown activation.
    """
    config = moe_runner_config
    if config.apply_router_weight_on_input:
        raise NotImplementedError("router weights on the input of experts need a GPU")

    def activate(inner: Tensor) -> Tensor:
        return _activated(inner, config)

    result = routed_sum(layer, x, topk_output.topk_ids, topk_output.topk_weights, activate)
    if config.routed_scaling_factor is not None:
        result *= config.routed_scaling_factor
    return result.to(x.dtype)


def routed_sum(
    layer: Any, x: Tensor, ids: Tensor, weights: Tensor, activate: Callable[[Tensor], Tensor]
) -> Tensor:
    """The weighted sum of the experts' outputs.

    Args:
        layer: has the weights, see :func:`moe_forward_native`.
        x: ``(tokens, features)``.
        ids, weights: ``(tokens, k)``; a negative id is no expert and adds nothing.
        activate: what lies between an expert's two products.

    Returns:
        ``(tokens, features)`` float32.
    """
    if not ids.numel():
        return torch.zeros(x.shape, device=x.device)
    weights = weights.float().masked_fill(ids < 0, 0)
    ids = ids.long().clamp(min=0)
    small = ids.numel() * layer.w13_weight[0].numel() <= GATHERED_ELEMENTS
    sent = (_gathered if small else _by_expert)(layer, x, ids, activate)
    return torch.einsum("nkd,nk->nd", sent.view(*ids.shape, -1).float(), weights)


def _gathered(layer: Any, x: Tensor, ids: Tensor, activate: Callable[[Tensor], Tensor]) -> Tensor:
    """Outputs ``(tokens * k, features)``, one product with copies of the weights."""
    experts = ids.flatten()
    rows = x.repeat_interleave(ids.shape[1], 0)
    inner = _product(rows, layer, "w13_weight", experts)
    return _product(activate(inner), layer, "w2_weight", experts)


def _by_expert(layer: Any, x: Tensor, ids: Tensor, activate: Callable[[Tensor], Tensor]) -> Tensor:
    """Outputs ``(tokens * k, features)``, a product for each expert that has tokens."""
    order = ids.flatten().argsort()
    chosen, counts = torch.unique_consecutive(ids.flatten()[order], return_counts=True)
    rows = torch.split(x[order // ids.shape[1]], counts.tolist())
    parts = []
    for expert, part in zip(chosen.tolist(), rows, strict=True):
        inner = _product(part, layer, "w13_weight", expert)
        parts.append(_product(activate(inner), layer, "w2_weight", expert))
    sent = torch.cat(parts)
    return torch.empty_like(sent).index_copy_(0, order, sent)


def _product(x: Tensor, layer: Any, name: str, expert: int | Tensor) -> Tensor:
    """Rows times an expert's weights, or each row times those of its own expert."""
    weight, bias = getattr(layer, name)[expert], getattr(layer, f"{name}_bias", None)
    if weight.dim() == 3:
        result = torch.bmm(weight, x[..., None]).squeeze(-1)
    else:
        result = F.linear(x, weight)
    return result if bias is None else (result.float() + bias[expert]).to(x.dtype)


def leave_scale_to_model(_result: None, block: Any, *_args: object, **_kwargs: object) -> None:
    """Keep the scale of the routed output out of a block's experts: runs after the constructor of
    one that multiplies by it itself wherever SGLang sees no GPU."""
    config = getattr(block.experts, "moe_runner_config", None)
    if config is not None:
        config.routed_scaling_factor = None


def _activated(x: Tensor, config: Any) -> Tensor:
    """What lies between an expert's two products; `fused_moe` of SGLang's Triton runner has the
    same cases."""
    if not config.is_gated:
        if config.activation == "relu2":
            return F.relu(x).square()
        if config.activation in ("silu", "gelu"):
            return F.silu(x) if config.activation == "silu" else F.gelu(x)
        raise NotImplementedError(f"experts with {config.activation!r} and no gate")
    alpha, limit = config.gemm1_alpha, config.gemm1_clamp_limit
    if config.activation == "silu" and alpha is not None and config.gate_up_interleaved:
        gate, up = x[..., ::2], x[..., 1::2]
    else:
        gate, up = x.chunk(2, dim=-1)
    if config.activation == "silu":
        return _swiglu(gate, up, alpha, limit, config.swiglu_limit)
    if config.activation == "gelu":
        return F.gelu(gate, approximate="tanh") * up
    if config.activation == "situ":
        beta = 4.0 if alpha is None else alpha
        gate = beta * torch.tanh(gate.float() / beta) * torch.sigmoid(gate.float())
        up = up.float() if limit is None else limit * torch.tanh(up.float() / limit)
        return (gate * up).to(x.dtype)
    raise NotImplementedError(f"experts with {config.activation!r} and a gate")


def _swiglu(
    gate: Tensor, up: Tensor, alpha: float | None, limit: float | None, early: float | None
) -> Tensor:
    """``silu(gate) * up`` with the limits that models put on it: on the gate as it comes
    (``alpha`` makes it GPT-OSS's, ``early`` DeepSeek's), or on the activated one."""
    if alpha is not None and limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return gate * torch.sigmoid(gate * alpha) * (up + 1)
    if limit is not None:
        return F.silu(gate).clamp(max=limit) * up.clamp(-limit, limit)
    if early is not None:
        return F.silu(gate.clamp(max=early)) * up.clamp(-early, early)
    return F.silu(gate) * up
