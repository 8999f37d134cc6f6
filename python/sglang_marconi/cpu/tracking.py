"""Copies of recurrent states that SGLang's ``extra_buffer`` strategy takes while decoding."""

import torch
from torch import Tensor


def track_mamba_states_if_needed(
    conv_states: Tensor,
    ssm_states: Tensor,
    cache_indices: Tensor,
    mamba_track_mask: Tensor,
    mamba_track_indices: Tensor,
    batch_size: int,
    check_freed_slots: bool = False,
) -> None:
    """Copy the states of one layer's marked rows to their tracking slots, in place.

    Args:
        conv_states: ``(slots, ...)``.
        ssm_states: ``(slots, ...)``.
        cache_indices: ``(batch_size,)`` integers, the slot each row works on.
        mamba_track_mask: ``(batch_size,)`` bool, the rows to copy.
        mamba_track_indices: ``(batch_size,)`` integers, where to.
        batch_size: rows looked at.
        check_freed_slots: leave out rows one of whose slots is negative.
    """
    _copy_marked(
        (conv_states[None], ssm_states[None]),
        cache_indices,
        mamba_track_mask,
        mamba_track_indices,
        batch_size,
        check_freed_slots,
    )


def track_mamba_states_all_layers(
    conv_states_pool: Tensor,
    ssm_states_pool: Tensor,
    cache_indices: Tensor,
    mamba_track_mask: Tensor,
    mamba_track_indices: Tensor,
    batch_size: int,
    check_freed_slots: bool = False,
) -> None:
    """:func:`track_mamba_states_if_needed` for pools of shape ``(layers, slots, ...)``."""
    _copy_marked(
        (conv_states_pool, ssm_states_pool),
        cache_indices,
        mamba_track_mask,
        mamba_track_indices,
        batch_size,
        check_freed_slots,
    )


def _copy_marked(
    pools: tuple[Tensor, ...],
    source: Tensor,
    mask: Tensor,
    target: Tensor,
    rows: int,
    check_freed: bool,
) -> None:
    source, target = source[:rows].long(), target[:rows].long()
    marked = mask[:rows].bool()
    if check_freed:
        marked = marked & (source >= 0) & (target >= 0)
    chosen = torch.nonzero(marked).flatten()
    if not len(chosen):
        return
    for pool in pools:
        pool[:, target[chosen]] = pool[:, source[chosen]]
