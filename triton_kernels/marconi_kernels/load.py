"""Pages into slots of the active tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

from .arithmetic import BF16, ELEMENTS, EXACT, FLAGS, FP8, INT8
from .checks import check_active, check_pages, check_rows
from .image import read_image
from .launch import kernel, on_device_of, runs_kernels
from .layout import Encoding, StateLayout
from .runs import RUN_FIELDS, copy_run, run_in_pages, run_in_slot
from .tables import BLOCK_BYTES, stored_as, tables_of
from .tiles import TILE_FIELDS, read_pages, write_slot


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
    if (
        encodings.dtype != torch.int32
        or encodings.shape != slots.shape
        or not encodings.is_contiguous()
    ):
        raise ValueError(
            f"encodings must be contiguous int32 [{len(slots)}], got {encodings.dtype} "
            f"{list(encodings.shape)}"
        )
    if runs_kernels(pages):
        load_triton(active, slots, pages, rows, encodings, layout)
    else:
        load_torch(active, slots, pages, rows, encodings, layout)


def load_triton(
    active: Sequence[Tensor],
    slots: Tensor,
    pages: Tensor,
    rows: Tensor,
    encodings: Tensor,
    layout: StateLayout,
) -> None:
    """`load` as a kernel. Raises `ValueError` where a slot's elements are not contiguous."""
    tables = tables_of(layout, active, pages.device)
    items = max(sum(tables.items(encoding)) for encoding in Encoding)
    programs = len(slots) * items
    if programs == 0:
        return
    with on_device_of(pages):
        _load_kernel[(programs,)](
            slots,
            pages,
            rows,
            rows.stride(0),
            encodings,
            items,
            tables.runs,
            len(tables.runs),
            tables.kept,
            tables.tiles,
            len(tables.tiles),
            BF16_IS_EXACT=stored_as(Encoding.BF16, layout) == Encoding.EXACT,
            ELEMENT=ELEMENTS[tables.element],
            PAGE_BYTES=layout.page_bytes,
            BLOCK=BLOCK_BYTES,
            ROWS=tables.tile_rows,
            COLUMNS=tables.tile_columns,
            VECTOR=tables.vector,
            **FLAGS,
        )


@kernel
def _load_kernel(
    slots: tl.tensor,
    pages: tl.tensor,
    rows: tl.tensor,
    row_stride: tl.tensor,
    encodings: tl.tensor,
    items: tl.tensor,
    runs: tl.tensor,
    run_count: tl.tensor,
    kept_count: tl.tensor,
    tiles: tl.tensor,
    tile_count: tl.tensor,
    BF16_IS_EXACT: tl.constexpr,
    ELEMENT: tl.constexpr,
    PAGE_BYTES: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
) -> None:
    """One program an item and state; a state with fewer items than another has idle ones."""
    state = tl.program_id(0) // items
    item = tl.program_id(0) % items
    slot = tl.load(slots + state)
    numbers = rows + state.to(tl.int64) * row_stride
    encoding = tl.load(encodings + state)
    if BF16_IS_EXACT:
        encoding = tl.where(encoding == BF16, EXACT, encoding)
    if encoding != EXACT:
        run_count = kept_count
    if item < run_count:
        run = runs + item * RUN_FIELDS
        source = run_in_pages(run, pages, numbers, PAGE_BYTES)
        copy_run(source, run_in_slot(run, slot), run, BLOCK)
    elif (encoding != EXACT) & (item - run_count < tile_count):
        tile = tiles + (item - run_count) * TILE_FIELDS
        if encoding == INT8:
            values = read_pages(
                pages, numbers, tile, INT8, ELEMENT, PAGE_BYTES, ROWS, COLUMNS, VECTOR
            )
            write_slot(values, tile, slot, ELEMENT, VECTOR)
        elif encoding == FP8:
            values = read_pages(
                pages, numbers, tile, FP8, ELEMENT, PAGE_BYTES, ROWS, COLUMNS, VECTOR
            )
            write_slot(values, tile, slot, ELEMENT, VECTOR)
        else:
            values = read_pages(
                pages, numbers, tile, BF16, ELEMENT, PAGE_BYTES, ROWS, COLUMNS, VECTOR
            )
            write_slot(values, tile, slot, ELEMENT, VECTOR)


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
