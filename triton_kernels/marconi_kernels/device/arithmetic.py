"""The encodings' arithmetic, the same bit for bit as `reference/codec.py`'s.

It is written out in float32 and integer operations that round as IEEE 754 does, so that a state
has the same image on every device. For that, kernels must be compiled with `launch.FLAGS`.
"""

from __future__ import annotations

import torch
import triton.language as tl

from ..encoding import LARGEST, SMALLEST_SCALE, Encoding
from ..launch import device_function

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

_LARGEST_INT8 = tl.constexpr(LARGEST[Encoding.INT8])
_LARGEST_FP8 = tl.constexpr(LARGEST[Encoding.FP8])
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)
_INFINITY_BITS = tl.constexpr(0x7F800000)


@device_function
def to_float(raw: tl.tensor, ELEMENT: tl.constexpr) -> tl.tensor:
    """What is stored in elements of type `ELEMENT`, as float32."""
    if ELEMENT.is_int():
        return (raw.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return raw.to(tl.float32)


@device_function
def from_float(values: tl.tensor, ELEMENT: tl.constexpr) -> tl.tensor:
    """The reverse of `to_float`, rounding to nearest even."""
    if ELEMENT.is_int():
        bits = values.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where((bits & 0x7FFFFFFF) > _INFINITY_BITS, 0x7FC0, rounded).to(tl.uint16)
    else:
        return values.to(ELEMENT)


@device_function
def encode(values: tl.tensor, ENCODING: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """uint8 codes `[rows, columns]` and float32 scales `[1, columns]`, as `codec.quantize` has."""
    LARGEST: tl.constexpr = _LARGEST_INT8 if ENCODING == INT8 else _LARGEST_FP8
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
def decode(codes: tl.tensor, ENCODING: tl.constexpr) -> tl.tensor:
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
