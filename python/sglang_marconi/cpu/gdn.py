"""Gated DeltaNet's operations on a CPU, under the signatures SGLang calls them with."""

import torch
from torch import Tensor

from .delta_pool import (
    advance_slots,
    entering_states,
    forget_gate,
    packed_bounds,
    queries_and_keys,
    scan_slots,
    step_packed,
)
from .speculation import refuse_speculation


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    initial_state_indices: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    head_first: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    inplace_update: bool = True,
) -> tuple[Tensor, None, Tensor]:
    """The recurrence over a prompt or a packed batch of prompts; see :mod:`.delta_rule`.

    Args:
        q, k: ``(batch, seqlen, H, K)``; with ``cu_seqlens`` the batch is 1 and the sequences lie
            end to end along ``seqlen``.
        v: ``(batch, seqlen, HV, V)``.
        g: ``(batch, seqlen, HV)``, log decays.
        beta: ``(batch, seqlen, HV)``.
        scale: what queries are multiplied by, ``K ** -0.5`` by default.
        initial_state: ``(slots, HV, V, K)``, the pool.
        initial_state_indices: ``(sequences,)``, slot of each; a negative one reads zeros and keeps
            no state.
        cu_seqlens: ``(sequences + 1,)``, where each sequence begins.
        use_qk_l2norm_in_kernel: bring queries and keys to unit length first.
        inplace_update: write each sequence's last state to its slot.

    Returns:
        The output, like ``v``; None; and the states before each 64 tokens of a sequence,
        ``(batch, chunks, HV, V, K)`` in the dtype of ``k``, one sequence after the other.

    Raises:
        ValueError: the pool or its slots are missing, or a packed batch has several rows.
        NotImplementedError: ``head_first`` is asked for.
    """
    if head_first:
        raise NotImplementedError("chunk_gated_delta_rule takes tokens before heads")
    if initial_state is None or initial_state_indices is None:
        raise ValueError("chunk_gated_delta_rule needs a state pool and its slots")
    bounds = packed_bounds(v, cu_seqlens)
    queries, keys = queries_and_keys(q, k, scale, use_qk_l2norm_in_kernel)
    scan = scan_slots(
        queries,
        keys,
        v.flatten(0, 1),
        g.flatten(0, 1),
        beta.flatten(0, 1),
        initial_state,
        initial_state_indices,
        bounds,
        inplace_update,
    )
    return scan.output.to(v.dtype).view(v.shape), None, entering_states(scan, k)


def fused_recurrent_gated_delta_rule_packed_decode(
    mixed_qkv: Tensor,
    a: Tensor,
    b: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    scale: float,
    initial_state: Tensor,
    out: Tensor,
    ssm_state_indices: Tensor,
    use_qk_l2norm_in_kernel: bool = False,
) -> tuple[Tensor, Tensor]:
    """One decode step with its gates, on what the convolution gave.

    Args:
        mixed_qkv: ``(batch, 2 * H * K + HV * V)``.
        a, b: ``(batch, HV)``, before bias and activation.
        A_log, dt_bias: ``(HV,)``.
        scale: what queries are multiplied by.
        initial_state: ``(slots, HV, V, K)``, the pool; changed in place.
        out: ``(batch, 1, HV, V)``, receives the output.
        ssm_state_indices: ``(batch,)``, slot of each row; a negative one gives zeros.
        use_qk_l2norm_in_kernel: bring queries and keys to unit length first.

    Returns:
        ``out`` and ``initial_state``.
    """
    decay, beta = forget_gate(a, A_log, dt_bias), _rounded_sigmoid(b)
    step_packed(
        mixed_qkv, decay, beta, scale, initial_state, out, ssm_state_indices,
        use_qk_l2norm_in_kernel,
    )  # fmt: skip
    return out, initial_state


def fused_recurrent_gated_delta_rule_update(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state_source: Tensor | None = None,
    initial_state_indices: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    disable_state_update: bool = False,
    disable_output_calculation: bool = False,
    intermediate_states_buffer: Tensor | None = None,
    intermediate_state_indices: Tensor | None = None,
    cache_steps: int | None = None,
    retrieve_parent_token: Tensor | None = None,
) -> Tensor:
    """Prefill and decode of a JetBlock, whose recurrence is gated DeltaNet's.

    Args:
        q, k: ``(batch, seqlen, H, K)``; with ``cu_seqlens`` the batch is 1 and the sequences lie
            end to end along ``seqlen``.
        v: ``(batch, seqlen, HV, V)``.
        g: ``(batch, seqlen, HV)``, log decays.
        beta: ``(batch, seqlen, HV)``, ones without.
        scale: what queries are multiplied by, ``K ** -0.5`` by default.
        initial_state_source: ``(slots, HV, V, K)``, the pool; changed in place.
        initial_state_indices: ``(sequences,)``, slot of each; a negative one reads zeros and keeps
            no state.
        cu_seqlens: ``(sequences + 1,)``, where each sequence begins.
        use_qk_l2norm_in_kernel: bring queries and keys to unit length first.

    Returns:
        The output, like ``v`` in the dtype of ``q``.

    Raises:
        ValueError: the pool or its slots are missing, or a packed batch has several rows.
        NotImplementedError: what only speculative verification needs is asked for.
    """
    speculative = (intermediate_states_buffer, intermediate_state_indices, retrieve_parent_token)
    refuse_speculation(disable_state_update, disable_output_calculation, *speculative)
    if initial_state_source is None or initial_state_indices is None:
        raise ValueError("fused_recurrent_gated_delta_rule_update needs a state pool and its slots")
    queries, keys = queries_and_keys(q, k, scale, use_qk_l2norm_in_kernel)
    output = advance_slots(
        queries,
        keys,
        v.flatten(0, 1),
        g.flatten(0, 1).float(),
        torch.ones_like(g).flatten(0, 1) if beta is None else beta.flatten(0, 1).float(),
        initial_state_source,
        initial_state_indices,
        packed_bounds(v, cu_seqlens),
    )
    return output.to(q.dtype).view(v.shape)


def fused_gdn_gating(
    A_log: Tensor,
    a: Tensor,
    b: Tensor,
    dt_bias: Tensor,
    beta: float = 1.0,
    threshold: float = 20.0,
) -> tuple[Tensor, Tensor]:
    """Log decays and write strengths of a prompt.

    Args:
        A_log, dt_bias: ``(HV,)``.
        a, b: ``(tokens, HV)``, before bias and activation.
        beta, threshold: those of the softplus.

    Returns:
        ``(1, tokens, HV)`` float32 each: ``-exp(A_log) * softplus(a + dt_bias)`` and
        ``sigmoid(b)``, the latter rounded to the dtype of ``b``.
    """
    decay = forget_gate(a, A_log, dt_bias, beta=beta, threshold=threshold)
    return decay[None], _rounded_sigmoid(b)[None]


def fused_qkvzba_split_reshape_cat(
    mixed_qkvz: Tensor,
    mixed_ba: Tensor,
    num_heads_qk: int,
    num_heads_v: int,
    head_qk: int,
    head_v: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take the projections apart where they hold one key head's share after the other.

    Args:
        mixed_qkvz: ``(tokens, 2 * H * K + 2 * HV * V)``, for each key head its query, key,
            values and gates.
        mixed_ba: ``(tokens, 2 * HV)``, for each key head the ``b`` and then the ``a`` of its value
            heads.
        num_heads_qk, num_heads_v: ``H`` and ``HV``.
        head_qk, head_v: ``K`` and ``V``.

    Returns:
        Queries, keys and values ``(tokens, 2 * H * K + HV * V)``, gates ``(tokens, HV, V)``, and
        ``b`` and ``a``, ``(tokens, HV)`` each.
    """
    shared = num_heads_v // num_heads_qk
    sizes = [head_qk, head_qk, shared * head_v, shared * head_v]
    *qkv, z = mixed_qkvz.reshape(-1, num_heads_qk, sum(sizes)).split_with_sizes(sizes, 2)
    b, a = mixed_ba.reshape(-1, num_heads_qk, 2 * shared).chunk(2, 2)
    mixed_qkv = torch.cat([part.flatten(1) for part in qkv], 1)
    return mixed_qkv, z.reshape(-1, num_heads_v, head_v), b.flatten(1), a.flatten(1)


def fused_qkvzba_split_reshape_cat_contiguous(
    mixed_qkvz: Tensor,
    mixed_ba: Tensor,
    num_heads_qk: int,
    num_heads_v: int,
    head_qk: int,
    head_v: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take the projections apart where they hold all queries, all keys, all values, all gates.

    Args:
        mixed_qkvz: ``(tokens, 2 * H * K + 2 * HV * V)``.
        mixed_ba: ``(tokens, 2 * HV)``, all ``b``, then all ``a``.
        num_heads_qk, num_heads_v: ``H`` and ``HV``.
        head_qk, head_v: ``K`` and ``V``.

    Returns:
        As :func:`fused_qkvzba_split_reshape_cat`.
    """
    qkv, z = mixed_qkvz.tensor_split([mixed_qkvz.shape[1] - num_heads_v * head_v], 1)
    b, a = mixed_ba.chunk(2, 1)
    z = z.reshape(-1, num_heads_v, head_v)
    return qkv.contiguous(), z, b.contiguous(), a.contiguous()


def _rounded_sigmoid(b: Tensor) -> Tensor:
    """What the kernels make of ``b``: one rounding to its dtype, then float32 again."""
    return b.float().sigmoid().to(b.dtype).float()
