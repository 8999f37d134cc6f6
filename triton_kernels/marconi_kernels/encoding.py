"""In how few bytes a state may be kept."""

from __future__ import annotations

from enum import IntEnum


class Encoding(IntEnum):
    """How the recurrent parts of a state are stored. Other parts are always kept bit for bit.

    EXACT: bit for bit.
    BF16: rounded to bfloat16, to nearest even. A state of 2-byte elements is kept bit for bit.
    INT8, FP8: one byte an element, symmetric, with a float32 scale for each `Grouping` group:
        `scale = max(max|x| / m, 2**-126)` and `x` becomes `x / scale` rounded to nearest even,
        with m = 127 and integers for INT8, m = 448 and e4m3 numbers for FP8. A group that holds
        a NaN or an infinity is read back as NaN throughout.
    """

    EXACT = 0
    BF16 = 1
    INT8 = 2
    FP8 = 3


LARGEST = {Encoding.INT8: 127.0, Encoding.FP8: 448.0}
"""The largest number that an encoded element stands for, before the scale."""

SMALLEST_SCALE = 2.0**-126
"""The smallest normal float32, so that neither a scale nor its reciprocal is 0, infinite or
flushed: a group of zeros or denormals stays within half a step of it."""
