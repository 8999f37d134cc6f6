"""Inkling's short convolutions on a CPU, under the signatures SGLang calls them with.

Four to a layer, depthwise, over keys, values and the outputs of attention and feed-forward. Their
states are the last ``width - 1`` inputs, tokens first: ``(slots, width - 1, dim)``.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .conv1d import causal_conv1d_fn


def fused_decode_sconv_metadata(
    B: int, cache_indices: Tensor, out: Any = None
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What the convolutions of a decode step need to know of its ``B`` rows of one token.

    Args:
        cache_indices: ``(B,)``, slot of each row; -1 for padding.

    Returns:
        Where each row begins, ``(B + 1,)`` int32; whether it has a state, ``(B,)`` bool; and
        ``cache_mask`` ``(B, 1, 1)`` bool, ``safe_idx`` ``(B,)`` int64, ``cu`` ``(B + 1,)`` int64
        and ``si`` ``(B,)`` int32: rows that are none of padding, their slots, where they begin,
        and the row of each token.

    Raises:
        NotImplementedError: ``out``, the buffers of a CUDA graph.
    """
    if out is not None:
        raise NotImplementedError("buffers of a CUDA graph need a GPU")
    begin = torch.arange(B + 1, device=cache_indices.device)
    precomputed = {
        "cache_mask": (cache_indices != -1).view(B, 1, 1),
        "safe_idx": cache_indices.long().clamp(min=0),
        "cu": begin,
        "si": begin[:-1].int(),
    }
    has_state = torch.ones(B, dtype=torch.bool, device=cache_indices.device)
    return begin.int(), has_state, precomputed


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    sconv_cache: Tensor,
    cache_mask: Tensor,
    safe_idx: Tensor,
    cu: Tensor,
    si: Tensor,
    activation: str | None = None,
    use_residual: bool = True,
    is_decode: bool = False,
) -> Tensor:
    """The convolution of sequences laid end to end; leaves their states as they are.

    Args:
        x: ``(tokens, dim)``.
        weight: ``(dim, width)``.
        sconv_cache: ``(slots, width - 1, dim)``.
        cache_mask: ``(sequences, 1, 1)`` bool; a sequence without starts from zeros.
        safe_idx: ``(sequences,)``, slot of each sequence.
        cu: ``(sequences + 1,)``, where each begins.
        si: the sequence of each token; ``cu`` says the same.
        activation: None, ``"silu"`` or ``"swish"``.
        use_residual: add ``x`` behind the activation.
        is_decode: all sequences have a state, whatever ``cache_mask`` says.

    Returns:
        Like ``x``; computed in float32.
    """
    masked = cache_mask.flatten() | is_decode
    states = sconv_cache[safe_idx].transpose(1, 2)
    tokens = x.float()
    result = causal_conv1d_fn(
        tokens.t(), weight, None, states, cu, None,
        has_initial_state=masked, activation=activation,
    ).t()  # fmt: skip
    return (result + tokens if use_residual else result).to(x.dtype)


def update_sconv_cache(
    x: Tensor,
    sconv_cache: Tensor,
    cache_indices: Tensor,
    has_initial_state: Tensor,
    query_start_loc: Tensor,
) -> None:
    """Move the states on over sequences laid end to end, in place.

    Args:
        x: ``(tokens, dim)``.
        sconv_cache: ``(slots, width - 1, dim)``.
        cache_indices: ``(sequences,)``, slot of each; with -1, as without tokens, nothing is
            written.
        has_initial_state: ``(sequences,)`` bool; zeros stand in for the state of the others.
        query_start_loc: ``(sequences + 1,)``, where each begins.
    """
    history = sconv_cache.shape[1]
    begin, end = query_start_loc[:-1].long(), query_start_loc[1:].long()
    rows = torch.nonzero((cache_indices != -1) & (end > begin)).flatten()
    slots, lengths = cache_indices[rows].long(), (end - begin)[rows]
    past = sconv_cache[slots] * has_initial_state[rows, None, None]
    # Places in a row's past and its tokens behind it.
    places = lengths[:, None] + torch.arange(history, device=x.device)
    tokens = (begin[rows, None] + places - history).clamp(min=0)
    kept = past.gather(1, places.clamp(max=history - 1)[..., None].expand(past.shape))
    latest = x[tokens].to(sconv_cache.dtype)
    sconv_cache[slots] = torch.where((places < history)[..., None], kept, latest)


def fused_causal_conv1d_update_decode(
    x: Tensor,
    weight: Tensor,
    sconv_cache: Tensor,
    cache_indices: Tensor,
    cache_mask: Tensor,
    activation: str | None = None,
    use_residual: bool = True,
    track_mask: Tensor | None = None,
    track_indices: Tensor | None = None,
) -> Tensor:
    """One decode step: the convolution, and the states moved on in place.

    Args:
        x: ``(rows, dim)``.
        weight: ``(dim, width)``.
        sconv_cache: ``(slots, width - 1, dim)``.
        cache_indices: ``(rows,)``, slot of each; -1 for padding, which writes nothing.
        cache_mask: ``rows`` bool; zeros stand in for the state of the others.
        activation: None, ``"silu"`` or ``"swish"``.
        use_residual: add ``x`` behind the activation.
        track_mask: ``rows`` bool, whose new states are also copied.
        track_indices: ``(rows,)``, where to.

    Returns:
        Like ``x``; computed in float32.
    """
    past = sconv_cache[cache_indices.long().clamp(min=0)] * cache_mask.view(-1, 1, 1)
    window = torch.cat([past, x[:, None].to(past.dtype)], 1)
    tokens = x.float()
    inputs = torch.cat([past.float(), tokens[:, None]], 1)
    result = torch.einsum("nwd,dw->nd", inputs, weight.float())
    if activation is not None:
        result = F.silu(result)
    rows = torch.nonzero(cache_indices != -1).flatten()
    sconv_cache[cache_indices[rows].long()] = window[rows, 1:]
    if track_mask is not None and track_indices is not None:
        copied = rows[track_mask.flatten()[rows]]
        sconv_cache[track_indices[copied].long()] = window[copied, 1:]
    return (result + tokens if use_residual else result).to(x.dtype)


def fused_gather_scatter_to_sconv_cache(
    hidden_states: Tensor,
    sconv_cache: Tensor,
    track_conv_indices: Tensor,
    mask: Tensor,
    dst_indices: Tensor,
) -> None:
    """Copy inputs of a prefill to the slots that track its states, in place.

    Args:
        hidden_states: ``(tokens, dim)``.
        sconv_cache: ``(slots, width - 1, dim)``.
        track_conv_indices: ``(rows, width - 1)``, the tokens to copy.
        mask: ``(rows,)`` bool, the rows to copy.
        dst_indices: ``(rows,)``, where to.
    """
    rows = torch.nonzero(mask).flatten()
    tokens = hidden_states[track_conv_indices[rows].long()]
    sconv_cache[dst_indices[rows].long()] = tokens.to(sconv_cache.dtype)


def fused_replay_state_indices(
    *,
    req_pool_indices: Tensor,
    mamba_index_mapping: Tensor,
    out_state_indices: Tensor,
    valid_bs: int,
    total_bs: int,
    v2p: Tensor | None = None,
) -> Tensor:
    """The state slots of a batch's requests.

    Args:
        req_pool_indices: ``(total_bs,)``, requests; those of padding are set to 0.
        mamba_index_mapping: the slot of each request.
        out_state_indices: ``(at least total_bs,)`` int32, receives the slots; -1 for padding.
        valid_bs: rows in front that are none of padding.
        v2p: the slot that each slot of the mapping stands for, where these are virtual.

    Returns:
        ``out_state_indices[:total_bs]``.
    """
    slots = mamba_index_mapping[req_pool_indices[:valid_bs].long()]
    if v2p is not None:
        slots = v2p[slots.long()]
    out_state_indices[:valid_bs] = slots.to(out_state_indices.dtype)
    out_state_indices[valid_bs:total_bs] = -1
    req_pool_indices[valid_bs:total_bs] = 0
    return out_state_indices[:total_bs]
