"""Slots of the active tensors into pages."""

from __future__ import annotations

from collections.abc import Sequence

import triton.language as tl
from torch import Tensor

from .arithmetic import ELEMENTS, EXACT, FLAGS
from .checks import check_active, check_pages, check_rows
from .image import write_image
from .launch import kernel, on_device_of, runs_kernels
from .layout import Encoding, StateLayout
from .runs import RUN_FIELDS, copy_run, run_in_pages, run_in_slot
from .tables import BLOCK_BYTES, stored_as, tables_of
from .tiles import TILE_FIELDS, read_slot, write_pages


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
    runs, tiles = tables.items(stored_as(encoding, layout))
    programs = len(slots) * (runs + tiles)
    if programs == 0:
        return
    with on_device_of(pages):
        _store_kernel[(programs,)](
            slots,
            pages,
            rows,
            rows.stride(0),
            tables.runs,
            runs,
            tables.tiles,
            tiles,
            ENCODING=int(stored_as(encoding, layout)),
            ELEMENT=ELEMENTS[tables.element],
            PAGE_BYTES=layout.page_bytes,
            BLOCK=BLOCK_BYTES,
            ROWS=tables.tile_rows,
            COLUMNS=tables.tile_columns,
            VECTOR=tables.vector,
            **FLAGS,
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
    """One program an item and state; the items of a state follow each other."""
    items = run_count + tile_count
    state = tl.program_id(0) // items
    item = tl.program_id(0) % items
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
