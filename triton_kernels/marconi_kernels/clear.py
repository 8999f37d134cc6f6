"""Zeros into slots of the active tensors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .checks import check_active
from .layout import StateLayout


def clear(active: Sequence[Tensor], slots: Tensor, layout: StateLayout) -> None:
    """Zeroes slots in all layers and parts. One launch; does not wait for the device.

    Args:
        active: the layout's parts, each `[layers, slots, *shape]`.
        slots: int64 `[n]`. Slot numbers are not checked.

    Raises:
        ValueError: a dtype or shape is not as described.
    """
    check_active(active, slots, layout)
    clear_torch(active, slots)


def clear_torch(active: Sequence[Tensor], slots: Tensor) -> None:
    """`clear` in torch operations, for any strides of the active tensors."""
    for tensor in active:
        tensor[:, slots] = 0
