"""Zeros into slots of the active tensors."""

from __future__ import annotations

from collections.abc import Sequence

import triton.language as tl
from torch import Tensor

from ..device.runs import RUN_FIELDS, run_in_slot, zero_run
from ..device.tables import tables_of
from ..launch import BLOCK_BYTES, kernel, launch, runs_kernels, state_and_item
from ..layout import StateLayout
from ..reference import clear_torch
from .checks import check_active


def clear(active: Sequence[Tensor], slots: Tensor, layout: StateLayout) -> None:
    """Zeroes slots in all layers and parts. One launch; does not wait for the device.

    Args:
        active: the layout's parts, each `[layers, slots, *shape]`.
        slots: int64 `[n]`. Slot numbers are not checked.

    Raises:
        ValueError: a dtype or shape is not as described.
    """
    check_active(active, slots, layout)
    if runs_kernels(slots):
        clear_triton(active, slots, layout)
    else:
        clear_torch(active, slots)


def clear_triton(active: Sequence[Tensor], slots: Tensor, layout: StateLayout) -> None:
    """`clear` as a kernel. Raises `ValueError` where a slot's elements are not contiguous."""
    tables = tables_of(layout, active, slots.device)
    runs = len(tables.runs)
    launch(_clear_kernel, len(slots), runs, slots, tables.runs, runs, BLOCK=BLOCK_BYTES)


@kernel
def _clear_kernel(
    slots: tl.tensor, runs: tl.tensor, run_count: tl.tensor, BLOCK: tl.constexpr
) -> None:
    state, item = state_and_item(run_count)
    slot = tl.load(slots + state)
    run = runs + item * RUN_FIELDS
    zero_run(run_in_slot(run, slot), run, BLOCK)
