"""Pages into slots of the active tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_active, check_pages, check_rows
from .image import read_image
from .layout import Encoding, StateLayout


def load(
    active: Sequence[Tensor],
    slots: Tensor,
    pages: Tensor,
    rows: Tensor,
    encodings: Tensor,
    layout: StateLayout,
) -> None:
    """Decodes states from pages into slots. One launch; does not wait for the device.

    Args:
        active: the layout's parts, each `[layers, slots, *shape]`.
        slots: int64 `[n]`, where each state goes, no slot twice.
        pages: uint8 `[num_pages, page_bytes]`, contiguous.
        rows: int32 `[n, pages of each state's encoding or more]`, the pages of each state in
            order. States may share pages. What stands after the pages needed is ignored.
        encodings: int32 `[n]`, the `Encoding` of each state.

    Slot and page numbers and encodings are not checked.

    Raises:
        ValueError: a dtype or shape is not as described.
    """
    check_active(active, slots, layout)
    check_pages(pages, layout)
    check_rows(rows, len(slots), 0)
    if encodings.dtype != torch.int32 or encodings.shape != slots.shape:
        raise ValueError(
            f"encodings must be int32 [{len(slots)}], got {encodings.dtype} {list(encodings.shape)}"
        )
    load_torch(active, slots, pages, rows, encodings, layout)


def load_torch(
    active: Sequence[Tensor],
    slots: Tensor,
    pages: Tensor,
    rows: Tensor,
    encodings: Tensor,
    layout: StateLayout,
) -> None:
    """`load` in torch operations, for any strides of the active tensors; reads `encodings`."""
    for encoding in Encoding:
        chosen = (encodings == encoding).nonzero().squeeze(1)
        if not len(chosen):
            continue
        image = pages[rows[chosen, : layout.pages(encoding)].long()]
        for tensor, values in zip(active, read_image(image, encoding, layout), strict=True):
            tensor[:, slots[chosen]] = values.transpose(0, 1)
