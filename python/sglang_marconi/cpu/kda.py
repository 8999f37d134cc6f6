"""Kimi Delta Attention's operations on a CPU, under the signatures SGLang calls them with."""

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
from .delta_rule import PackedDelta
from .speculation import refuse_speculation


def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    initial_state_indices: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    lower_bound: float | None = None,
    output_intermediate_states: bool = False,
    track_state: Tensor | None = None,
    track_chunk_idx: Tensor | None = None,
    beta_is_raw: bool = False,
    chunk_indices: Tensor | None = None,
    chunk_offsets: Tensor | None = None,
    **kwargs: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """The recurrence over a prompt or a packed batch of prompts; see :mod:`.delta_rule`.

    Args:
        q, k: ``(batch, seqlen, H, K)``; with ``cu_seqlens`` the batch is 1 and the sequences lie
            end to end along ``seqlen``.
        v: ``(batch, seqlen, HV, V)``.
        g: ``(batch, seqlen, HV, K)``: log decays, or with ``A_log`` what the gate makes them from.
        beta: ``(batch, seqlen, HV)``.
        scale: what queries are multiplied by, ``K ** -0.5`` by default.
        initial_state: ``(slots, HV, V, K)``, the pool; each sequence's last state goes to its slot.
        initial_state_indices: ``(sequences,)``, slot of each; a negative one reads zeros and keeps
            no state.
        use_qk_l2norm_in_kernel: bring queries and keys to unit length first.
        cu_seqlens: ``(sequences + 1,)``, where each sequence begins.
        A_log: ``HV`` elements in any shape; see :func:`.delta_pool.forget_gate`.
        dt_bias: ``HV * K`` elements in any shape, zeros without.
        lower_bound: asks for the safe gate.
        output_intermediate_states: return the states before each 64 tokens of a sequence, too.
        track_state: ``(sequences, HV, V, K)`` float32. A row receives the state before the chunk
            of 64 tokens that ``track_chunk_idx`` asks for, if its sequence has that chunk.
        track_chunk_idx: ``(sequences,)`` integers.
        beta_is_raw: ``beta`` is the logit.
        chunk_indices, chunk_offsets: what ``cu_seqlens`` looks like to a kernel on a fixed grid.

    Returns:
        The output, like ``v``; with it, if asked for, states ``(batch, chunks, HV, V, K)`` in the
        dtype of ``k``, one sequence after the other.

    Raises:
        ValueError: the pool or its slots are missing, or a packed batch has several rows.
    """
    if initial_state is None or initial_state_indices is None:
        raise ValueError("chunk_kda needs a state pool and its slots")
    bounds = packed_bounds(v, cu_seqlens)
    queries, keys = queries_and_keys(q, k, scale, use_qk_l2norm_in_kernel)
    if A_log is not None:
        g = _channel_gate(g, A_log, dt_bias, lower_bound, (v.shape[2], k.shape[3]))
    if beta_is_raw:
        beta = beta.float().sigmoid()
    scan = scan_slots(
        queries,
        keys,
        v.flatten(0, 1),
        g.flatten(0, -3),
        beta.flatten(0, 1),
        initial_state,
        initial_state_indices,
        bounds,
    )
    if track_state is not None and track_chunk_idx is not None:
        _track(scan, track_state, track_chunk_idx)
    output = scan.output.to(v.dtype).view(v.shape)
    if not output_intermediate_states:
        return output
    return output, entering_states(scan, k)


def fused_recurrent_kda_packed_decode(
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
    lower_bound: float | None = None,
) -> tuple[Tensor, Tensor]:
    """One decode step with its gates, on what the convolution gave.

    Args:
        mixed_qkv: ``(batch, 2 * H * K + HV * V)``.
        a: ``(batch, HV * K)``, before bias and activation.
        b: ``(batch, HV)``, the logit of beta.
        A_log: ``(HV,)``.
        dt_bias: ``(HV * K,)``.
        scale: what queries are multiplied by.
        initial_state: ``(slots, HV, V, K)``, the pool; changed in place.
        out: ``(batch, 1, HV, V)``, receives the output.
        ssm_state_indices: ``(batch,)``, slot of each row; a negative one gives zeros.
        use_qk_l2norm_in_kernel: bring queries and keys to unit length first.
        lower_bound: asks for the safe gate.

    Returns:
        ``out`` and ``initial_state``.
    """
    heads, _, key_dim = initial_state.shape[1:]
    step_packed(
        mixed_qkv,
        _channel_gate(a, A_log, dt_bias, lower_bound, (heads, key_dim)),
        b.float().sigmoid(),
        scale,
        initial_state,
        out,
        ssm_state_indices,
        use_qk_l2norm_in_kernel,
    )
    return out, initial_state


def fused_sigmoid_gating_delta_rule_update(
    A_log: Tensor,
    a: Tensor,
    dt_bias: Tensor,
    softplus_beta: float,
    softplus_threshold: float,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    b: Tensor,
    initial_state_source: Tensor,
    initial_state_indices: Tensor,
    scale: float | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    is_kda: bool = False,
    lower_bound: float | None = None,
    disable_state_update: bool = False,
    intermediate_states_buffer: Tensor | None = None,
    intermediate_state_indices: Tensor | None = None,
    cache_steps: int | None = None,
    retrieve_parent_token: Tensor | None = None,
    cache_ring: bool = False,
    replayssm_rawv: Tensor | None = None,
    replayssm_rawk: Tensor | None = None,
    replayssm_g: Tensor | None = None,
    replayssm_beta: Tensor | None = None,
    match_cutedsl_decode: bool = False,
) -> Tensor:
    """Decode steps with their gates, of KDA where its gate is the safe one, or of GDN.

    Args:
        A_log: ``HV`` elements in any shape.
        a: before bias and activation, ``HV`` elements a token or with ``is_kda`` ``HV * K``.
        dt_bias: as many elements as a token has of ``a``.
        softplus_beta, softplus_threshold: those of the softplus.
        q, k: ``(batch, seqlen, H, K)``; with ``cu_seqlens`` the batch is 1 and the sequences lie
            end to end along ``seqlen``.
        v: ``(batch, seqlen, HV, V)``.
        b: the logit of beta, ``HV`` elements a token.
        initial_state_source: ``(slots, HV, V, K)``, the pool; changed in place.
        initial_state_indices: ``(sequences,)``, slot of each; a negative one reads zeros and keeps
            no state.
        scale: what queries are multiplied by, ``K ** -0.5`` by default.
        use_qk_l2norm_in_kernel: bring queries and keys to unit length first.
        cu_seqlens: ``(sequences + 1,)``, where each sequence begins.
        is_kda: a decay for each key channel.
        lower_bound: asks for the safe gate.

    Returns:
        The output, like ``v`` in the dtype of ``q``.

    Raises:
        NotImplementedError: what only speculative verification needs is asked for.
        ValueError: a packed batch has several rows.
    """
    speculative = (intermediate_states_buffer, retrieve_parent_token, match_cutedsl_decode)
    refuse_speculation(disable_state_update, cache_ring, *speculative)
    heads, key_dim = v.shape[2], k.shape[3]
    softplus = (softplus_beta, softplus_threshold)
    if is_kda:
        decay = _channel_gate(a, A_log, dt_bias, lower_bound, (heads, key_dim), *softplus)
    else:
        A_log, dt_bias = A_log.reshape(heads), dt_bias.reshape(heads)
        decay = forget_gate(a.reshape(-1, heads), A_log, dt_bias, lower_bound, *softplus)
    queries, keys = queries_and_keys(q, k, scale, use_qk_l2norm_in_kernel)
    output = advance_slots(
        queries,
        keys,
        v.flatten(0, 1),
        decay,
        b.reshape(-1, heads).float().sigmoid(),
        initial_state_source,
        initial_state_indices,
        packed_bounds(v, cu_seqlens),
    )
    return output.to(q.dtype).view(v.shape)


def _channel_gate(
    a: Tensor,
    A_log: Tensor,
    dt_bias: Tensor | None,
    lower_bound: float | None,
    sizes: tuple[int, int],
    beta: float = 1.0,
    threshold: float = 20.0,
) -> Tensor:
    """``(tokens, HV, K)`` from whatever shapes SGLang has given the gate's parts."""
    bias = None if dt_bias is None else dt_bias.reshape(sizes)
    A_log = A_log.reshape(-1, 1)
    return forget_gate(a.reshape(-1, *sizes), A_log, bias, lower_bound, beta, threshold)


def _track(scan: PackedDelta, target: Tensor, chunk: Tensor) -> None:
    wanted = torch.nonzero((chunk >= 0) & (chunk < scan.pieces)).flatten()
    first = scan.pieces.cumsum(0) - scan.pieces
    target[wanted] = scan.entering[first[wanted] + chunk[wanted]]
