"""Slots of the active tensors into pages."""

from __future__ import annotations

from collections.abc import Sequence

import triton.language as tl
from torch import Tensor

from ..device.arithmetic import EXACT
from ..device.runs import RUN_FIELDS, copy_run, run_in_pages, run_in_slot
from ..device.tables import stored_as, tables_of
from ..device.tiles import TILE_FIELDS, read_slot, write_pages
from ..encoding import Encoding
from ..launch import kernel, launch, runs_kernels, state_and_item
from ..layout import StateLayout
from ..reference import store_torch
from .checks import check_active, check_pages, check_rows


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
    if runs_kernels(pages):
        store_triton(active, slots, pages, rows, encoding, layout)
    else:
        store_torch(active, slots, pages, rows, encoding, layout)


def store_triton(
    active: Sequence[Tensor],
    slots: Tensor,
    pages: Tensor,
    rows: Tensor,
    encoding: Encoding,
    layout: StateLayout,
) -> None:
    """`store` as a kernel. Raises `ValueError` where a slot's elements are not contiguous."""
    tables = tables_of(layout, active, pages.device)
    encoding = stored_as(encoding, layout)
    runs, tiles = tables.items(encoding)
    launch(
        _store_kernel,
        len(slots),
        runs + tiles,
        slots,
        pages,
        rows,
        rows.stride(0),
        tables.runs,
        runs,
        tables.tiles,
        tiles,
        ENCODING=int(encoding),
        **tables.constants,
    )


@kernel
def _store_kernel(
    slots: tl.tensor,
    pages: tl.tensor,
    rows: tl.tensor,
    row_stride: tl.tensor,
    runs: tl.tensor,
    run_count: tl.tensor,
    tiles: tl.tensor,
    tile_count: tl.tensor,
    ENCODING: tl.constexpr,
    ELEMENT: tl.constexpr,
    PAGE_BYTES: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
) -> None:
    state, item = state_and_item(run_count + tile_count)
    slot = tl.load(slots + state)
    numbers = rows + state.to(tl.int64) * row_stride
    if item < run_count:
        run = runs + item * RUN_FIELDS
        target = run_in_pages(run, pages, numbers, PAGE_BYTES)
        copy_run(run_in_slot(run, slot), target, run, BLOCK)
    elif ENCODING != EXACT:
        tile = tiles + (item - run_count) * TILE_FIELDS
        values = read_slot(tile, slot, ELEMENT, ROWS, COLUMNS, VECTOR)
        write_pages(values, pages, numbers, tile, ENCODING, ELEMENT, PAGE_BYTES, VECTOR)
