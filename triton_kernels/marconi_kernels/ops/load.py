"""Pages into slots of the active tensors."""

from __future__ import annotations

from collections.abc import Sequence

import triton.language as tl
from torch import Tensor

from ..device.arithmetic import BF16, EXACT, FP8, INT8
from ..device.runs import RUN_FIELDS, copy_run, run_in_pages, run_in_slot
from ..device.tables import stored_as, tables_of
from ..device.tiles import TILE_FIELDS, read_pages, write_slot
from ..encoding import Encoding
from ..launch import kernel, launch, runs_kernels, state_and_item
from ..layout import StateLayout
from ..reference import load_torch
from .checks import check_active, check_encodings, check_pages, check_rows


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
    check_encodings(encodings, len(slots))
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
    launch(
        _load_kernel,
        len(slots),
        items,
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
        **tables.constants,
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
    """A state with fewer items than another has idle ones."""
    state, item = state_and_item(items)
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
