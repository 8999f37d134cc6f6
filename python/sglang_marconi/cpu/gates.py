"""Sigmoid gates on a CPU, under the signatures SGLang calls them with."""

import torch
from torch import Tensor


def fused_sigmoid_mul(
    attn_output: Tensor, gate: Tensor, inplace: bool = False, quant: bool = False
) -> Tensor:
    """``attn_output * sigmoid(gate)``.

    Args:
        attn_output: ``(tokens, features)``.
        gate: the same shape, or ``(tokens, heads, features / heads)`` with any strides.
        inplace: write the result to ``attn_output``.

    Returns:
        Like ``attn_output``; computed in float32.

    Raises:
        NotImplementedError: ``quant``, which is for GPUs that multiply in FP8.
    """
    if quant:
        raise NotImplementedError("a quantised gate needs a GPU")
    result = attn_output.float() * torch.sigmoid(gate.float().reshape(attn_output.shape))
    return attn_output.copy_(result) if inplace else result.to(attn_output.dtype)


def launch_fused_gate_sigmoid_mul(
    hidden_states: Tensor,
    gate_weight: Tensor,
    shared_output: Tensor,
    output: Tensor,
    *,
    do_add: bool,
) -> None:
    """Gate the shared expert: ``sigmoid(hidden_states @ gate_weight) * shared_output``.

    Args:
        hidden_states: ``(tokens, features)``.
        gate_weight: ``(features,)``.
        shared_output: ``(tokens, features)``.
        output: ``(tokens, features)``, receives the result, computed in float32.
        do_add: add to what ``output`` holds instead.
    """
    gate = torch.sigmoid(torch.mv(hidden_states.float(), gate_weight.float()))
    result = gate[:, None] * shared_output.float()
    output.copy_(result.add_(output) if do_add else result)
