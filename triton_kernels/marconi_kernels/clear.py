"""Zeros into slots of the active tensors."""

from __future__ import annotations

from collections.abc import Sequence

import triton.language as tl
from torch import Tensor

from .arithmetic import FLAGS
from .checks import check_active
from .launch import kernel, on_device_of, runs_kernels
from .layout import StateLayout
from .runs import RUN_FIELDS, run_in_slot, zero_run
from .tables import BLOCK_BYTES, tables_of


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
    programs = len(slots) * len(tables.runs)
    if programs == 0:
        return
    with on_device_of(slots):
        _clear_kernel[(programs,)](slots, tables.runs, len(tables.runs), BLOCK=BLOCK_BYTES, **FLAGS)


@kernel
def _clear_kernel(
    slots: tl.tensor, runs: tl.tensor, run_count: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """One program an item and slot; the items of a slot follow each other."""
    slot = tl.load(slots + tl.program_id(0) // run_count)
    run = runs + tl.program_id(0) % run_count * RUN_FIELDS
    zero_run(run_in_slot(run, slot), run, BLOCK)


def clear_torch(active: Sequence[Tensor], slots: Tensor) -> None:
    """`clear` in torch operations, for any strides of the active tensors."""
    for tensor in active:
        tensor[:, slots] = 0
