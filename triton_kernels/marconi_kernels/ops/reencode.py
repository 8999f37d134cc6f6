"""States in pages from one encoding to another."""

from __future__ import annotations

import triton.language as tl
from torch import Tensor

from ..device.runs import RUN_FIELDS, copy_padded_run, run_in_pages
from ..device.tables import stored_as, tables_of
from ..device.tiles import TILE_FIELDS, read_pages, write_pages
from ..encoding import Encoding
from ..launch import kernel, launch, runs_kernels, state_and_item
from ..layout import StateLayout
from ..reference import reencode_torch
from .checks import check_pages, check_rows


def reencode(
    pages: Tensor,
    source_rows: Tensor,
    source: Encoding,
    target_rows: Tensor,
    target: Encoding,
    layout: StateLayout,
) -> None:
    """Writes states in another encoding, to other pages. One launch; does not wait for the device.

    The result is what loading a state and storing it in `target` would give.

    Args:
        pages: uint8 `[num_pages, page_bytes]`, contiguous.
        source_rows: int32 `[n, at least layout.pages(source)]`, the pages of each state in order.
        source: what they are encoded in.
        target_rows: int32 `[n, at least layout.pages(target)]`, where each goes. No page may
            occur twice, nor be a source page.
        target: another encoding than `source`.

    Page numbers are not checked. Bytes of a page that are padding may be written.

    Raises:
        ValueError: the encodings are the same, or a dtype or shape is not as described.
    """
    if source == target:
        raise ValueError(f"states are in {source.name} already")
    check_pages(pages, layout)
    check_rows(source_rows, len(target_rows), layout.pages(source))
    check_rows(target_rows, len(source_rows), layout.pages(target))
    if runs_kernels(pages):
        reencode_triton(pages, source_rows, source, target_rows, target, layout)
    else:
        reencode_torch(pages, source_rows, source, target_rows, target, layout)


def reencode_triton(
    pages: Tensor,
    source_rows: Tensor,
    source: Encoding,
    target_rows: Tensor,
    target: Encoding,
    layout: StateLayout,
) -> None:
    """`reencode` as a kernel."""
    tables = tables_of(layout, None, pages.device)
    source, target = stored_as(source, layout), stored_as(target, layout)
    runs, tiles = tables.items(Encoding.EXACT if source == target else Encoding.INT8)
    launch(
        _reencode_kernel,
        len(source_rows),
        runs + tiles,
        pages,
        source_rows,
        source_rows.stride(0),
        target_rows,
        target_rows.stride(0),
        tables.runs,
        runs,
        tables.tiles,
        tiles,
        SOURCE=int(source),
        TARGET=int(target),
        **tables.constants,
    )


@kernel
def _reencode_kernel(
    pages: tl.tensor,
    source_rows: tl.tensor,
    source_stride: tl.tensor,
    target_rows: tl.tensor,
    target_stride: tl.tensor,
    runs: tl.tensor,
    run_count: tl.tensor,
    tiles: tl.tensor,
    tile_count: tl.tensor,
    SOURCE: tl.constexpr,
    TARGET: tl.constexpr,
    ELEMENT: tl.constexpr,
    PAGE_BYTES: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
) -> None:
    state, item = state_and_item(run_count + tile_count)
    source_numbers = source_rows + state.to(tl.int64) * source_stride
    target_numbers = target_rows + state.to(tl.int64) * target_stride
    if item < run_count:
        # The parts kept bit for bit lie in the same place of both images.
        run = runs + item * RUN_FIELDS
        origin = run_in_pages(run, pages, source_numbers, PAGE_BYTES)
        goal = run_in_pages(run, pages, target_numbers, PAGE_BYTES)
        copy_padded_run(origin, goal, run, BLOCK)
    elif SOURCE != TARGET:
        tile = tiles + (item - run_count) * TILE_FIELDS
        values = read_pages(
            pages, source_numbers, tile, SOURCE, ELEMENT, PAGE_BYTES, ROWS, COLUMNS, VECTOR
        )
        write_pages(values, pages, target_numbers, tile, TARGET, ELEMENT, PAGE_BYTES, VECTOR)
