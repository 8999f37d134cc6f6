"""The short causal convolution in front of the recurrence, on a CPU, as SGLang calls it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .speculation import refuse_speculation


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv_states: Tensor | None,
    query_start_loc: Tensor | None,
    seq_lens_cpu: Sequence[int] | None,
    cache_indices: Tensor | None = None,
    has_initial_state: Tensor | None = None,
    activation: str | bool | None = "silu",
    pad_slot_id: int = -1,
    validate_data: bool = False,
    block_table: Tensor | None = None,
    **kwargs: object,
) -> Tensor:
    """Depthwise causal convolution over sequences laid end to end.

    ``y_t = act(bias + sum_k weight[:, k] * x_{t - (width - 1) + k})``, where the tokens before a
    sequence are the columns of its convolution state, or zeros.

    Args:
        x: ``(dim, tokens)``, or ``(batch, dim, seqlen)`` where ``query_start_loc`` is None.
        weight: ``(dim, width)``.
        bias: ``(dim,)`` or None.
        conv_states: ``(slots, dim, at least width - 1)``: the first ``width - 1`` columns are read
            where a sequence has an initial state, and are replaced by its last ``width - 1``
            inputs.
        query_start_loc: ``(sequences + 1,)``, where each sequence begins.
        seq_lens_cpu: lengths of the sequences; the same is read from ``query_start_loc``.
        cache_indices: ``(sequences,)``, slot of each sequence; sequence ``i`` has slot ``i``
            without.
        has_initial_state: ``(sequences,)`` bool, all False without.
        activation: None, ``"silu"`` or ``"swish"``.
        pad_slot_id: a sequence with this slot gets zeros and leaves no state.
        block_table: not supported.

    Returns:
        Like ``x``.

    Raises:
        NotImplementedError: ``block_table`` is given, or the activation is another one.
    """
    if block_table is not None:
        raise NotImplementedError("causal_conv1d_fn with a block table needs a GPU")
    silu = _wants_silu(activation)
    if query_start_loc is None:
        batch, _, seqlen = x.shape
        lengths = torch.full((batch,), seqlen, device=x.device)
        tokens = x.transpose(1, 2).flatten(0, 1)
    else:
        lengths = query_start_loc.diff().long()
        tokens = x.transpose(0, 1)
    sequences = len(lengths)
    slots = torch.arange(sequences, device=x.device)
    if cache_indices is not None:
        slots = cache_indices.long()
    kept = torch.ones(sequences, dtype=torch.bool, device=x.device)
    if cache_indices is not None:
        kept = slots != pad_slot_id

    # Every sequence with its history in front: one buffer in which a tap is a shifted view.
    history = weight.shape[1] - 1
    total = int(lengths.sum())
    begin = F.pad((lengths + history).cumsum(0), (1, 0))  # of the history, in the buffer
    owner = torch.repeat_interleave(torch.arange(sequences, device=x.device), lengths)
    place = torch.arange(total, device=x.device) + (owner + 1) * history
    buffer = tokens.new_zeros(int(begin[-1]), tokens.shape[1], dtype=torch.float32)
    buffer[place] = tokens[:total].float()
    past = begin[:-1, None] + torch.arange(history, device=x.device)
    if conv_states is not None and has_initial_state is not None:
        resumed = torch.nonzero(kept & has_initial_state[:sequences]).flatten()
        stored = conv_states[slots[resumed], :, :history]
        buffer[past[resumed]] = stored.transpose(1, 2).float()

    result = _taps(buffer[None], weight, bias, silu)[0]
    result = result[place - history]
    if not bool(kept.all()):
        result[~kept[owner]] = 0
    if conv_states is not None:
        latest = buffer[past + lengths[:, None]][kept].transpose(1, 2)
        conv_states[slots[kept], :, :history] = latest.to(conv_states.dtype)

    result = result.to(x.dtype)
    if query_start_loc is None:
        return result.view(x.shape[0], x.shape[2], x.shape[1]).transpose(1, 2)
    return F.pad(result, (0, 0, 0, tokens.shape[0] - total)).transpose(0, 1)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | bool | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
    num_accept_tokens: Tensor | None = None,
    intermediate_conv_window: Tensor | None = None,
    intermediate_state_indices: Tensor | None = None,
    retrieve_next_token: Tensor | None = None,
    retrieve_next_sibling: Tensor | None = None,
    retrieve_parent_token: Tensor | None = None,
    pad_slot_id: int = -1,
    metadata: object = None,
    validate_data: bool = False,
) -> Tensor:
    """One or a few decode steps of the convolution; the states move on in place.

    Args:
        x: ``(batch, dim)`` or ``(batch, dim, steps)``.
        conv_state: ``(slots, dim, at least width - 1)``, of which the first ``width - 1`` columns
            are used.
        weight: ``(dim, width)``.
        bias: ``(dim,)`` or None.
        activation: None, ``"silu"`` or ``"swish"``.
        conv_state_indices: ``(batch,)``, slot of each row; row ``i`` has slot ``i`` without.
        pad_slot_id: a row with this slot gets zeros and leaves no state.

    Returns:
        Like ``x``.

    Raises:
        NotImplementedError: a circular state or speculative verification is asked for, or the
            activation is another one.
    """
    if cache_seqlens is not None:
        raise NotImplementedError("causal_conv1d_update with a circular state needs a GPU")
    refuse_speculation(num_accept_tokens, intermediate_conv_window)
    silu = _wants_silu(activation)
    history = weight.shape[1] - 1
    steps = x.unsqueeze(-1) if x.dim() == 2 else x
    slots = torch.arange(x.shape[0], device=x.device)
    rows = slots
    if conv_state_indices is not None:
        slots = conv_state_indices.long()
        padding = slots == pad_slot_id
        if steps.shape[-1] == 1 and not bool(padding.any()):
            return _one_step(steps, conv_state, weight, bias, silu, slots).view(x.shape)
        rows = torch.nonzero(~padding).flatten()
    stored = conv_state[slots[rows], :, :history].float()
    buffer = torch.cat([stored, steps[rows].float()], dim=-1).transpose(1, 2)
    result = torch.zeros_like(steps)
    result[rows] = _taps(buffer, weight, bias, silu).transpose(1, 2).to(x.dtype)
    latest = buffer[:, buffer.shape[1] - history :].transpose(1, 2)
    conv_state[slots[rows], :, :history] = latest.to(conv_state.dtype)
    return result.squeeze(-1) if x.dim() == 2 else result


def _one_step(
    x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, slots: Tensor
) -> Tensor:
    """A decode step of ``(batch, dim, 1)`` without padding, which nearly all are, in few calls."""
    history = weight.shape[1] - 1
    window = torch.cat([conv_state[slots, :, :history].float(), x.float()], dim=-1)
    conv_state[slots, :, :history] = window[..., 1:].to(conv_state.dtype)
    result = window.mul_(weight.float()).sum(-1)
    if bias is not None:
        result += bias.float()
    return (F.silu(result, inplace=True) if silu else result).to(x.dtype)


def _taps(buffer: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """``(batch, n - width + 1, dim)`` from ``(batch, n, dim)``: token-major, so that each tap is a
    multiplication of contiguous rows."""
    width = weight.shape[1]
    kernel = weight.float().t().contiguous()
    count = buffer.shape[1] - width + 1
    if count <= 0:
        return buffer.new_zeros(buffer.shape[0], 0, buffer.shape[2])
    result = buffer[:, :count] * kernel[0]
    for k in range(1, width):
        result.addcmul_(buffer[:, k : k + count], kernel[k])
    if bias is not None:
        result += bias.float()
    return F.silu(result, inplace=True) if silu else result


def _wants_silu(activation: str | bool | None) -> bool:
    if activation in (None, False):
        return False
    if activation in ("silu", "swish", True):
        return True
    raise NotImplementedError(f"activation {activation!r}: only silu is known")
