"""Device functions that the kernels share: bytes, and tiles of lossy parts in each encoding.

All arithmetic that ends in a stored bit is written out in float32 and integer operations that
round as IEEE 754 does, so that a state has the same image on every device, and the same as the
torch implementation's (`codec.py`). For that, kernels must be launched with `FLAGS`.

`tile` is a pointer to a row of `tables.tiles`; ROWS, COLUMNS and VECTOR are `tile_rows`,
`tile_columns` and `vector` of the same tables; ELEMENT is one of `ELEMENTS`.
"""

from __future__ import annotations

import torch
import triton.language as tl

from .launch import device_function
from .layout import Encoding
from .tables import Tile

FLAGS = {"enable_fp_fusion": False, "num_warps": 8}
"""Launch options. A fused multiply-add would round once where the encodings round twice."""

ELEMENTS = {
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.uint16,
}
"""What kernels read and write for a part's dtype; bfloat16 is handled by its bits throughout."""

EXACT = tl.constexpr(int(Encoding.EXACT))
BF16 = tl.constexpr(int(Encoding.BF16))
INT8 = tl.constexpr(int(Encoding.INT8))
FP8 = tl.constexpr(int(Encoding.FP8))

# Where the fields of a row of `tables.tiles` are.
_ADDRESS = tl.constexpr(Tile._fields.index("address"))
_SLOT_STRIDE = tl.constexpr(Tile._fields.index("slot_stride"))
_ROWS = tl.constexpr(Tile._fields.index("rows"))
_COLUMNS = tl.constexpr(Tile._fields.index("columns"))
_PITCH = tl.constexpr(Tile._fields.index("pitch"))
_EXACT_AT = tl.constexpr(Tile._fields.index("exact"))
_BF16_AT = tl.constexpr(Tile._fields.index("bf16"))
_CODES_AT = tl.constexpr(Tile._fields.index("codes"))
_SCALES_AT = tl.constexpr(Tile._fields.index("scales"))

_SMALLEST_SCALE = tl.constexpr(2.0**-126)
_INFINITY_BITS = tl.constexpr(0x7F800000)
_NARROW_STEP = tl.constexpr(2048)


@device_function
def copy_bytes(
    source: tl.tensor, target: tl.tensor, count: tl.tensor, wide: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """`count` bytes, at most `BLOCK`, between addresses; see `Copy` for `wide`."""
    if wide != 0:
        word = tl.arange(0, BLOCK // 8)
        valid = word < tl.multiple_of(count // 8, 2)
        origin = tl.multiple_of(source.to(tl.pointer_type(tl.int64)), 16)
        goal = tl.multiple_of(target.to(tl.pointer_type(tl.int64)), 16)
        tl.store(goal + word, tl.load(origin + word, mask=valid), mask=valid)
    else:
        for start in range(0, count, _NARROW_STEP):
            byte = start + tl.arange(0, _NARROW_STEP)
            valid = byte < count
            tl.store(target + byte, tl.load(source + byte, mask=valid), mask=valid)


@device_function
def zero_bytes(target: tl.tensor, count: tl.tensor, wide: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Zeroes `count` bytes, at most `BLOCK`, at an address; see `Copy` for `wide`."""
    if wide != 0:
        word = tl.arange(0, BLOCK // 8)
        goal = tl.multiple_of(target.to(tl.pointer_type(tl.int64)), 16)
        zeros = tl.zeros([BLOCK // 8], tl.int64)
        tl.store(goal + word, zeros, mask=word < tl.multiple_of(count // 8, 2))
    else:
        for start in range(0, count, _NARROW_STEP):
            byte = start + tl.arange(0, _NARROW_STEP)
            tl.store(target + byte, tl.zeros([_NARROW_STEP], tl.uint8), mask=byte < count)


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
    return _to_float(tl.load(pointers, mask=valid, other=0), ELEMENT)


@device_function
def write_slot(
    values: tl.tensor, tile: tl.tensor, slot: tl.tensor, ELEMENT: tl.constexpr, VECTOR: tl.constexpr
) -> None:
    """The reverse of `read_slot`."""
    pointers, valid = _slot_pointers(tile, slot, ELEMENT, values.shape[0], values.shape[1], VECTOR)
    tl.store(pointers, _from_float(values, ELEMENT), mask=valid)


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
        values = _to_float(raw, ELEMENT)
    elif ENCODING == BF16:
        at, valid = _page_elements(numbers, tile, _BF16_AT, 2, PAGE_BYTES, ROWS, COLUMNS, VECTOR)
        raw = tl.load(pages.to(tl.pointer_type(tl.uint16)) + at, mask=valid, other=0)
        values = _to_float(raw, tl.uint16)
    else:
        at, valid = _page_elements(numbers, tile, _CODES_AT, 1, PAGE_BYTES, ROWS, COLUMNS, VECTOR)
        codes = tl.load(pages + at, mask=valid, other=0)
        at, valid = _page_elements(numbers, tile, _SCALES_AT, 4, PAGE_BYTES, 1, COLUMNS, VECTOR)
        scales = tl.load(pages.to(tl.pointer_type(tl.float32)) + at, mask=valid, other=0)
        values = _to_float(_from_float(_decode(codes, ENCODING) * scales, ELEMENT), ELEMENT)
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
        tl.store(pages.to(tl.pointer_type(ELEMENT)) + at, _from_float(values, ELEMENT), mask=valid)
    elif ENCODING == BF16:
        at, valid = _page_elements(numbers, tile, _BF16_AT, 2, PAGE_BYTES, ROWS, COLUMNS, VECTOR)
        raw = _from_float(values, tl.uint16)
        tl.store(pages.to(tl.pointer_type(tl.uint16)) + at, raw, mask=valid)
    else:
        codes, scales = _encode(values, ENCODING)
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


@device_function
def _to_float(raw: tl.tensor, ELEMENT: tl.constexpr) -> tl.tensor:
    """What is stored in elements of type `ELEMENT`, as float32."""
    if ELEMENT.is_int():
        return (raw.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return raw.to(tl.float32)


@device_function
def _from_float(values: tl.tensor, ELEMENT: tl.constexpr) -> tl.tensor:
    """The reverse of `_to_float`, rounding to nearest even."""
    if ELEMENT.is_int():
        bits = values.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where((bits & 0x7FFFFFFF) > _INFINITY_BITS, 0x7FC0, rounded).to(tl.uint16)
    else:
        return values.to(ELEMENT)


@device_function
def _encode(values: tl.tensor, ENCODING: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """uint8 codes `[rows, columns]` and float32 scales `[1, columns]`; see `codec.quantize`."""
    LARGEST: tl.constexpr = 127.0 if ENCODING == INT8 else 448.0
    # As integers, magnitudes are ordered as floats are, with infinity and NaN above all numbers.
    magnitudes = values.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    largest = tl.max(magnitudes, axis=0, keep_dims=True)
    finite = largest < _INFINITY_BITS
    scales = tl.maximum(largest.to(tl.float32, bitcast=True) * (1 / LARGEST), _SMALLEST_SCALE)
    steps = tl.where(finite, values * tl.div_rn(1.0, scales), 0.0)
    scales = tl.where(finite, scales, float("nan"))
    if ENCODING == INT8:
        # 1.5 * 2**23: the sum has a step of 1, so it is rounded, and its low bits are the integer.
        codes = (steps + 12582912.0).to(tl.int32, bitcast=True).to(tl.uint8)
    else:
        codes = _to_e4m3(steps)
    return codes, scales


@device_function
def _decode(codes: tl.tensor, ENCODING: tl.constexpr) -> tl.tensor:
    """Integers or e4m3 numbers as float32."""
    if ENCODING == INT8:
        return codes.to(tl.int8, bitcast=True).to(tl.float32)
    else:
        return _from_e4m3(codes)


@device_function
def _to_e4m3(values: tl.tensor) -> tl.tensor:
    """e4m3 numbers (Micikevicius et al., arXiv 2209.05433) next to float32 of at most 448."""
    bits = values.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    # Normal numbers keep 3 of 23 bits of mantissa and have an exponent bias of 7, not 127.
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120 << 3)
    # Below 2**-6 are multiples of 2**-9, which is the step of float32 from 2**14.
    shifted = magnitude.to(tl.float32, bitcast=True) + 16384.0
    subnormal = shifted.to(tl.int32, bitcast=True) & 0xF
    code = tl.where(magnitude < 0x3C800000, subnormal, normal) | ((bits >> 24) & 0x80)
    return code.to(tl.uint8)


@device_function
def _from_e4m3(codes: tl.tensor) -> tl.tensor:
    """The reverse of `_to_e4m3`."""
    code = codes.to(tl.int32)
    magnitude = code & 0x7F
    normal = ((magnitude << 20) + (120 << 23)).to(tl.float32, bitcast=True)
    values = tl.where(magnitude < 8, magnitude.to(tl.float32) * 0.001953125, normal)
    # The sign goes in by its bit: a subtraction would lose that of zero.
    return (values.to(tl.int32, bitcast=True) | ((code & 0x80) << 24)).to(tl.float32, bitcast=True)
