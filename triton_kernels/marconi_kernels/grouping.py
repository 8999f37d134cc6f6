"""Which elements of a recurrent state share a scale when it is stored in one byte an element."""

from __future__ import annotations

import math
from typing import NamedTuple

ALIGNMENT = 16
"""Bytes: every address inside an encoded state that a vector access may start at."""

MAX_GROUP_ROWS = 128
MIN_GROUP_ROWS = 32
"""A float32 scale for fewer elements than this would cost more than an eighth of their bytes."""


class Grouping(NamedTuple):
    """One layer's state seen as `heads` matrices of `rows` x `columns`, in memory order.

    A column of a matrix is cut into `groups` runs of `group_rows` rows (the last may be shorter);
    the elements of one column in one run share a scale. A run with its scales is a record.
    """

    heads: int
    rows: int
    columns: int
    groups: int
    group_rows: int

    @property
    def records(self) -> int:
        """Records in one layer's state."""
        return self.heads * self.groups

    @property
    def codes_bytes(self) -> int:
        """Bytes of a record before its scales: `[group_rows, columns]` of one byte, padded."""
        return align(self.group_rows * self.columns)

    @property
    def record_bytes(self) -> int:
        """Bytes of a record: its codes, then `[columns]` float32 scales, each padded."""
        return self.codes_bytes + align(4 * self.columns)

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Grouping:
        """The grouping of one layer's state of `shape`, which has at least one element.

        The last dimension gives the columns and the one before it the rows: for `[heads, d_v,
        d_k]` every key channel of every head has its own scale. Where a matrix has few rows
        (Mamba1's `[channels, 1, 16]` has one), leading dimensions join them; where even all of
        them are few, elements are grouped in memory order.
        """
        elements = math.prod(shape)
        columns = shape[-1] if shape else 1
        rows, leading = 1, list(shape[:-1])
        while leading and rows < MIN_GROUP_ROWS:
            rows *= leading.pop()
        if rows < MIN_GROUP_ROWS:
            rows, columns = elements, 1
        groups = -(-rows // MAX_GROUP_ROWS)
        return cls(elements // (rows * columns), rows, columns, groups, -(-rows // groups))


def align(size: int) -> int:
    """`size` rounded up to a multiple of `ALIGNMENT`, both in bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT
