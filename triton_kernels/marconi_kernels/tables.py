"""What each program of a kernel works on: tables built once for a layout and its active tensors.

A kernel's grid is states times items, and an item is a row of one of two tables of int64. All
that does not depend on the state (which layer, which part, where in the image) stands in the row,
so the kernels hold no loop over layers or parts and decide nothing per element.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .grouping import ALIGNMENT, Grouping
from .layout import MIN_PAGE_BYTES, Encoding, StateLayout, StatePart

BLOCK_BYTES = 16 * 1024
"""Most bytes in a row of `runs`."""

_TILE_ELEMENTS = 4096
"""A tile then leaves a thread few enough registers that several programs share a multiprocessor,
which hides the latency of the look-ups before each copy."""
_MAX_TILE_COLUMNS = MIN_PAGE_BYTES // 4
"""A tile's row then spans two pages at most, in any encoding of up to 4 bytes an element."""


class View(NamedTuple):
    """Where an active tensor lies: an address and strides in bytes. All 0 where none is given."""

    address: int
    layer_stride: int
    slot_stride: int

    @classmethod
    def of(cls, tensor: Tensor) -> View:
        """Raises `ValueError` unless `[layers, slots, *shape]` is contiguous from `shape` on."""
        if tensor.numel() and not tensor[0, 0].is_contiguous():
            raise ValueError(
                f"a slot of an active tensor must be contiguous, got strides {tensor.stride()} "
                f"for {list(tensor.shape)}"
            )
        size = tensor.dtype.itemsize
        return cls(tensor.data_ptr(), tensor.stride(0) * size, tensor.stride(1) * size)


class Run(NamedTuple):
    """A row of `runs`: bytes that lie together in a slot and in one page of the image."""

    address: int
    """Of the first byte in slot 0."""
    slot_stride: int
    page: int
    """Which of the state's pages."""
    offset: int
    """In that page; a multiple of 16."""
    nbytes: int
    wide: int
    """1 where addresses, strides and `nbytes` are multiples of 16, else 0."""


class Tile(NamedTuple):
    """A row of `tiles`: some columns of one group of rows, as `Grouping` divides a lossy part."""

    address: int
    """Of the first element in slot 0."""
    slot_stride: int
    rows: int
    columns: int
    pitch: int
    """Elements from one row to the next, in a slot and in the image alike."""
    exact: int
    """Byte of the image at which the first element lies in the encoding EXACT."""
    bf16: int
    """The same in BF16."""
    codes: int
    """The same in INT8 and FP8."""
    scales: int
    """Byte of the image at which the first column's scale lies in INT8 and FP8."""


class Tables(NamedTuple):
    """The items of a layout."""

    runs: Tensor
    """int64 `[items, len(Run._fields)]`: the parts kept bit for bit, then the lossy ones."""
    kept: int
    """Rows of `runs` for the parts kept bit for bit."""
    tiles: Tensor
    """int64 `[items, len(Tile._fields)]`: the lossy parts."""
    tile_rows: int
    tile_columns: int
    """A power of two that no tile exceeds, each."""
    vector: int
    """Elements that make 16 bytes of a slot, where each row of each tile is made of such vectors,
    aligned, in slots and pages; else 1. The encoded side moves as many at a time, in fewer bytes,
    so that threads need not exchange elements and every access of a warp is one run of bytes."""
    element: torch.dtype
    """Of the lossy parts, float32 where there is none."""

    def items(self, encoding: Encoding) -> tuple[int, int]:
        """Rows of `runs`, from the first, and of `tiles` that `encoding` takes."""
        if encoding == Encoding.EXACT:
            return len(self.runs), 0
        return self.kept, len(self.tiles)


def stored_as(encoding: Encoding, layout: StateLayout) -> Encoding:
    """The encoding with the same image that the kernels know `encoding` by."""
    halves = all(part.dtype.itemsize == 2 for part in layout.parts if part.lossy)
    return Encoding.EXACT if encoding == Encoding.BF16 and halves else encoding


def tables_of(layout: StateLayout, active: Sequence[Tensor] | None, device: torch.device) -> Tables:
    """The tables for `layout` on `device`; without `active`, for moves between pages only.

    They are kept for the latest layouts and tensors, so only a first call copies to the device.

    Raises:
        ValueError: a slot of an active tensor is not contiguous.
    """
    if active is None:
        return _build(layout, (View(0, 0, 0),) * len(layout.parts), device)
    return _build(layout, tuple(View.of(tensor) for tensor in active), device)


@lru_cache(maxsize=32)
def _build(layout: StateLayout, views: tuple[View, ...], device: torch.device) -> Tables:
    runs: list[Run] = []
    tiles: list[Tile] = []
    kept = 0
    groupings = [Grouping.of(part.shape) for part in layout.parts if part.lossy and part.nbytes]
    tile_rows = _power_of_two(max((grouping.group_rows for grouping in groupings), default=1))
    tile_columns = min(
        _power_of_two(max((grouping.columns for grouping in groupings), default=1)),
        _TILE_ELEMENTS // tile_rows,
        _MAX_TILE_COLUMNS,
    )
    # As in the image: the parts kept bit for bit first, so that these are the first rows.
    for index in sorted(range(len(layout.parts)), key=lambda index: layout.parts[index].lossy):
        part, view = layout.parts[index], views[index]
        if part.nbytes == 0:
            continue
        for layer in range(layout.layers):
            starts = {
                encoding: segments[index].start + layer * segments[index].stride
                for encoding, segments in ((e, layout.segments(e)) for e in Encoding)
            }
            here = view._replace(address=view.address + layer * view.layer_stride)
            runs += _runs(here, part.nbytes, starts[Encoding.EXACT], layout.page_bytes)
            if part.lossy:
                tiles += _tiles(here, part, starts, tile_columns)
        if not part.lossy:
            kept = len(runs)
    element = next((part.dtype for part in layout.parts if part.lossy), torch.float32)
    wide = all(
        tile.columns % ALIGNMENT == tile.pitch % ALIGNMENT == 0
        and tile.address % ALIGNMENT == tile.slot_stride % ALIGNMENT == 0
        for tile in tiles
    )
    return Tables(
        torch.tensor(runs, dtype=torch.int64, device=device).view(-1, len(Run._fields)),
        kept,
        torch.tensor(tiles, dtype=torch.int64, device=device).view(-1, len(Tile._fields)),
        tile_rows,
        tile_columns,
        ALIGNMENT // element.itemsize if wide else 1,
        element,
    )


def _runs(view: View, nbytes: int, start: int, page_bytes: int) -> Iterator[Run]:
    """`nbytes` of a layer at byte `start` of the image, cut where a page ends."""
    done = 0
    while done < nbytes:
        page, offset = divmod(start + done, page_bytes)
        count = min(BLOCK_BYTES, page_bytes - offset, nbytes - done)
        address = view.address + done
        wide = not (address % ALIGNMENT or view.slot_stride % ALIGNMENT or count % ALIGNMENT)
        yield Run(address, view.slot_stride, page, offset, count, int(wide))
        done += count


def _tiles(
    view: View, part: StatePart, starts: Mapping[Encoding, int], tile_columns: int
) -> Iterator[Tile]:
    """A layer of a lossy part whose images start at the bytes `starts`."""
    grouping = Grouping.of(part.shape)
    for record in range(grouping.records):
        head, group = divmod(record, grouping.groups)
        row = group * grouping.group_rows
        rows = min(grouping.group_rows, grouping.rows - row)
        codes = starts[Encoding.INT8] + record * grouping.record_bytes
        for column in range(0, grouping.columns, tile_columns):
            element = (head * grouping.rows + row) * grouping.columns + column
            yield Tile(
                address=view.address + element * part.dtype.itemsize,
                slot_stride=view.slot_stride,
                rows=rows,
                columns=min(tile_columns, grouping.columns - column),
                pitch=grouping.columns,
                exact=starts[Encoding.EXACT] + element * part.dtype.itemsize,
                bf16=starts[Encoding.BF16] + element * 2,
                codes=codes + column,
                scales=codes + grouping.codes_bytes + 4 * column,
            )


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not less than `number`."""
    return int(1 << (number - 1).bit_length())
