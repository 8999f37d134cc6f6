"""Slots of the active tensors into pages."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .checks import check_active, check_pages, check_rows
from .image import write_image
from .layout import Encoding, StateLayout


def store(
    active: Sequence[Tensor],
    slots: Tensor,
    pages: Tensor,
    rows: Tensor,
    encoding: Encoding,
    layout: StateLayout,
) -> None:
    """Encodes states and writes them to pages. One launch; does not wait for the device.

    Args:
        active: the layout's parts, each `[layers, slots, *shape]`.
        slots: int64 `[n]`, the slot of each state.
        pages: uint8 `[num_pages, page_bytes]`, contiguous.
        rows: int32 `[n, at least layout.pages(encoding)]`, the pages of each state in order. No
            page may occur twice. What stands after the pages needed is ignored.
        encoding: of all of them.

    Slot and page numbers are not checked. Bytes of a page that are padding may be written.

    Raises:
        ValueError: a dtype or shape is not as described.
    """
    check_active(active, slots, layout)
    check_pages(pages, layout)
    check_rows(rows, len(slots), layout.pages(encoding))
    store_torch(active, slots, pages, rows, encoding, layout)


def store_torch(
    active: Sequence[Tensor],
    slots: Tensor,
    pages: Tensor,
    rows: Tensor,
    encoding: Encoding,
    layout: StateLayout,
) -> None:
    """`store` in torch operations, for any strides of the active tensors."""
    values = [tensor[:, slots].transpose(0, 1) for tensor in active]
    pages[rows[:, : layout.pages(encoding)].long()] = write_image(values, encoding, layout)
