"""What each program of a kernel works on: tables built once for a layout and its active tensors.

A kernel's grid is states times items, and an item is a row of one of two tables of int64. All
that does not depend on the state (which layer, which part, where in the image) stands in the row,
so the kernels hold no loop over layers or parts and decide nothing per element.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..encoding import Encoding
from ..grouping import ALIGNMENT, Grouping
from ..launch import BLOCK_BYTES, MAX_TILE_COLUMNS, TILE_ELEMENTS
from ..layout import StateLayout
from .arithmetic import ELEMENTS
from .runs import Run, cut_runs
from .tiles import Tile, cut_tiles


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


class Tables(NamedTuple):
    """The items of a layout, and the sizes that kernels over them are compiled for."""

    runs: Tensor
    """int64 `[items, len(Run._fields)]`: the parts kept bit for bit, then the lossy ones."""
    kept: int
    """Rows of `runs` for the parts kept bit for bit."""
    tiles: Tensor
    """int64 `[items, len(Tile._fields)]`: the lossy parts."""
    constants: dict[str, object]
    """What kernels over runs and tiles are compiled for:

    - PAGE_BYTES, and BLOCK, the most bytes in a run.
    - ROWS, COLUMNS: a power of two that no tile exceeds, each.
    - ELEMENT: one of `ELEMENTS`, float32 where there is no lossy part.
    - VECTOR: elements that make 16 bytes of a slot, where each row of each tile is made of such
      vectors, aligned, in slots and pages; else 1. The encoded side moves as many at a time, in
      fewer bytes, so that threads need not exchange elements and every access of a warp is one
      run of bytes.
    """

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
    lossy = [part for part in layout.parts if part.lossy]
    groupings = [Grouping.of(part.shape) for part in lossy if part.nbytes]
    rows = triton.next_power_of_2(max((grouping.group_rows for grouping in groupings), default=1))
    columns = triton.next_power_of_2(max((grouping.columns for grouping in groupings), default=1))
    columns = min(columns, TILE_ELEMENTS // rows, MAX_TILE_COLUMNS)
    for index in layout.order:
        part, view = layout.parts[index], views[index]
        if part.nbytes == 0:
            continue
        for layer in range(layout.layers_of(part)):
            starts = {
                encoding: segments[index].start + layer * segments[index].stride
                for encoding, segments in ((e, layout.segments(e)) for e in Encoding)
            }
            address = view.address + layer * view.layer_stride
            start = starts[Encoding.EXACT]
            runs += cut_runs(address, view.slot_stride, part.nbytes, start, layout.page_bytes)
            if part.lossy:
                tiles += cut_tiles(address, view.slot_stride, part, starts, columns)
        if not part.lossy:
            kept = len(runs)
    wide = all(
        size % ALIGNMENT == 0
        for tile in tiles
        for size in (tile.columns, tile.pitch, tile.address, tile.slot_stride)
    )
    element = lossy[0].dtype if lossy else torch.float32
    constants = {
        "ELEMENT": ELEMENTS[element],
        "PAGE_BYTES": layout.page_bytes,
        "BLOCK": BLOCK_BYTES,
        "ROWS": rows,
        "COLUMNS": columns,
        "VECTOR": ALIGNMENT // element.itemsize if wide else 1,
    }
    return Tables(
        torch.tensor(runs, dtype=torch.int64, device=device).view(-1, len(Run._fields)),
        kept,
        torch.tensor(tiles, dtype=torch.int64, device=device).view(-1, len(Tile._fields)),
        constants,
    )
