"""Tiles: some columns of a group of rows of a lossy part. A table of them, and its readers.

In the device functions, `tile` points to a row of the table; ROWS, COLUMNS, VECTOR and ELEMENT
are in `Tables.constants`; slots are int64, and `numbers` points to the int32 page numbers of a
state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import triton.language as tl

from ..encoding import Encoding
from ..grouping import Grouping
from ..launch import device_function
from ..layout import StatePart
from .arithmetic import BF16, EXACT, decode, encode, from_float, to_float


class Tile(NamedTuple):
    """A row of the table: some columns of one group of rows, as `Grouping` divides a lossy part."""

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


def cut_tiles(
    address: int,
    slot_stride: int,
    part: StatePart,
    starts: Mapping[Encoding, int],
    tile_columns: int,
) -> Iterator[Tile]:
    """A layer of a lossy part whose images start at the bytes `starts`.

    `address` and `slot_stride`, in bytes, say where the layer lies in slots.
    """
    grouping = Grouping.of(part.shape)
    for record in range(grouping.records):
        head, group = divmod(record, grouping.groups)
        row = group * grouping.group_rows
        rows = min(grouping.group_rows, grouping.rows - row)
        codes = starts[Encoding.INT8] + record * grouping.record_bytes
        for column in range(0, grouping.columns, tile_columns):
            element = (head * grouping.rows + row) * grouping.columns + column
            yield Tile(
                address=address + element * part.dtype.itemsize,
                slot_stride=slot_stride,
                rows=rows,
                columns=min(tile_columns, grouping.columns - column),
                pitch=grouping.columns,
                exact=starts[Encoding.EXACT] + element * part.dtype.itemsize,
                bf16=starts[Encoding.BF16] + element * 2,
                codes=codes + column,
                scales=codes + grouping.codes_bytes + 4 * column,
            )


TILE_FIELDS = tl.constexpr(len(Tile._fields))
_ADDRESS = tl.constexpr(Tile._fields.index("address"))
_SLOT_STRIDE = tl.constexpr(Tile._fields.index("slot_stride"))
_ROWS = tl.constexpr(Tile._fields.index("rows"))
_COLUMNS = tl.constexpr(Tile._fields.index("columns"))
_PITCH = tl.constexpr(Tile._fields.index("pitch"))
_EXACT_AT = tl.constexpr(Tile._fields.index("exact"))
_BF16_AT = tl.constexpr(Tile._fields.index("bf16"))
_CODES_AT = tl.constexpr(Tile._fields.index("codes"))
_SCALES_AT = tl.constexpr(Tile._fields.index("scales"))


@device_function
def read_slot(
    tile: tl.tensor,
    slot: tl.tensor,
    ELEMENT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
) -> tl.tensor:
    """A tile of a slot as float32 `[ROWS, COLUMNS]`, 0 outside the tile."""
    pointers, valid = _slot_pointers(tile, slot, ELEMENT, ROWS, COLUMNS, VECTOR)
    return to_float(tl.load(pointers, mask=valid, other=0), ELEMENT)


@device_function
def write_slot(
    values: tl.tensor, tile: tl.tensor, slot: tl.tensor, ELEMENT: tl.constexpr, VECTOR: tl.constexpr
) -> None:
    """The reverse of `read_slot`."""
    pointers, valid = _slot_pointers(tile, slot, ELEMENT, values.shape[0], values.shape[1], VECTOR)
    tl.store(pointers, from_float(values, ELEMENT), mask=valid)


@device_function
def read_pages(
    pages: tl.tensor,
    numbers: tl.tensor,
    tile: tl.tensor,
    ENCODING: tl.constexpr,
    ELEMENT: tl.constexpr,
    PAGE_BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
) -> tl.tensor:
    """A tile of a state in pages as float32 `[ROWS, COLUMNS]`, rounded to `ELEMENT`.

    numbers: pointer to the int32 page numbers of the state.
    """
    SIZE: tl.constexpr = ELEMENT.primitive_bitwidth // 8
    if ENCODING == EXACT:
        at, valid = _page_elements(
            numbers, tile, _EXACT_AT, SIZE, PAGE_BYTES, ROWS, COLUMNS, VECTOR
        )
        raw = tl.load(pages.to(tl.pointer_type(ELEMENT)) + at, mask=valid, other=0)
        values = to_float(raw, ELEMENT)
    elif ENCODING == BF16:
        at, valid = _page_elements(numbers, tile, _BF16_AT, 2, PAGE_BYTES, ROWS, COLUMNS, VECTOR)
        raw = tl.load(pages.to(tl.pointer_type(tl.uint16)) + at, mask=valid, other=0)
        values = to_float(raw, tl.uint16)
    else:
        at, valid = _page_elements(numbers, tile, _CODES_AT, 1, PAGE_BYTES, ROWS, COLUMNS, VECTOR)
        codes = tl.load(pages + at, mask=valid, other=0)
        at, valid = _page_elements(numbers, tile, _SCALES_AT, 4, PAGE_BYTES, 1, COLUMNS, VECTOR)
        scales = tl.load(pages.to(tl.pointer_type(tl.float32)) + at, mask=valid, other=0)
        values = to_float(from_float(decode(codes, ENCODING) * scales, ELEMENT), ELEMENT)
    return values


@device_function
def write_pages(
    values: tl.tensor,
    pages: tl.tensor,
    numbers: tl.tensor,
    tile: tl.tensor,
    ENCODING: tl.constexpr,
    ELEMENT: tl.constexpr,
    PAGE_BYTES: tl.constexpr,
    VECTOR: tl.constexpr,
) -> None:
    """The reverse of `read_pages`; `values` are 0 outside the tile."""
    ROWS: tl.constexpr = values.shape[0]
    COLUMNS: tl.constexpr = values.shape[1]
    SIZE: tl.constexpr = ELEMENT.primitive_bitwidth // 8
    if ENCODING == EXACT:
        at, valid = _page_elements(
            numbers, tile, _EXACT_AT, SIZE, PAGE_BYTES, ROWS, COLUMNS, VECTOR
        )
        tl.store(pages.to(tl.pointer_type(ELEMENT)) + at, from_float(values, ELEMENT), mask=valid)
    elif ENCODING == BF16:
        at, valid = _page_elements(numbers, tile, _BF16_AT, 2, PAGE_BYTES, ROWS, COLUMNS, VECTOR)
        raw = from_float(values, tl.uint16)
        tl.store(pages.to(tl.pointer_type(tl.uint16)) + at, raw, mask=valid)
    else:
        codes, scales = encode(values, ENCODING)
        at, valid = _page_elements(numbers, tile, _CODES_AT, 1, PAGE_BYTES, ROWS, COLUMNS, VECTOR)
        tl.store(pages + at, codes, mask=valid)
        at, valid = _page_elements(numbers, tile, _SCALES_AT, 4, PAGE_BYTES, 1, COLUMNS, VECTOR)
        tl.store(pages.to(tl.pointer_type(tl.float32)) + at, scales, mask=valid)


@device_function
def _slot_pointers(
    tile: tl.tensor,
    slot: tl.tensor,
    ELEMENT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Pointers `[ROWS, COLUMNS]` to a tile's elements in a slot, and which of them it has."""
    address = tl.load(tile + _ADDRESS) + slot * tl.load(tile + _SLOT_STRIDE)
    pointer = address.to(tl.pointer_type(ELEMENT))
    starts = tl.arange(0, ROWS) * tl.load(tile + _PITCH)
    at = starts[:, None] + tl.arange(0, COLUMNS)[None, :]
    pointer = tl.multiple_of(pointer, VECTOR * ELEMENT.primitive_bitwidth // 8)
    at = tl.max_contiguous(tl.multiple_of(at, [1, VECTOR]), [1, VECTOR])
    return pointer + at, _valid(tile, ROWS, COLUMNS, VECTOR)


@device_function
def _page_elements(
    numbers: tl.tensor,
    tile: tl.tensor,
    FIELD: tl.constexpr,
    SIZE: tl.constexpr,
    PAGE_BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Where a tile's elements of `SIZE` bytes lie in the page buffer, and which of them it has.

    FIELD: of the tile, the byte of the image at which the first element lies.

    A row lies in one page or in two, so the numbers of two pages are looked up for each.
    """
    PAGE: tl.constexpr = PAGE_BYTES // SIZE
    row = tl.arange(0, ROWS)
    inside = row < tl.load(tile + _ROWS)
    start = tl.load(tile + FIELD) // SIZE + row * tl.load(tile + _PITCH)
    page = start // PAGE
    offset = start - page * PAGE
    left = PAGE - offset
    crosses = inside & (left < tl.load(tile + _COLUMNS))
    first = tl.load(numbers + page, mask=inside, other=0).to(tl.int64) * PAGE + offset
    second = tl.load(numbers + page + 1, mask=crosses, other=0).to(tl.int64) * PAGE - left
    column = tl.arange(0, COLUMNS)[None, :]
    at = tl.where(column < left[:, None], first[:, None], second[:, None]) + column
    at = tl.max_contiguous(tl.multiple_of(at, [1, VECTOR]), [1, VECTOR])
    return at, _valid(tile, ROWS, COLUMNS, VECTOR)


@device_function
def _valid(
    tile: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr, VECTOR: tl.constexpr
) -> tl.tensor:
    """Which of `[ROWS, COLUMNS]` elements a tile has."""
    columns = tl.multiple_of(tl.load(tile + _COLUMNS), VECTOR)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    return (row < tl.load(tile + _ROWS)) & (column < columns)
