"""Bytes of a checkpoint in each encoding of the store (``marconi_kernels.StateLayout``).

This is its arithmetic without torch, whole store pages aside; a test compares the two.
"""

from __future__ import annotations

from typing import NamedTuple

ENCODINGS = ("exact", "bf16", "int8", "fp8")

_SCALE_BYTES = 4
_MOST_ROWS = 128
_FEWEST_ROWS = 32


class RecurrentPart(NamedTuple):
    """The part of a checkpoint that an encoding may round: elements, and scales if of one byte."""

    elements: int = 0
    element_bytes: int = 0
    scales: int = 0

    @property
    def nbytes(self) -> int:
        return self.elements * self.element_bytes

    def encoded(self, encoding: str) -> int:
        """Its bytes in one of `ENCODINGS`."""
        if encoding == "exact":
            return self.nbytes
        if encoding == "bf16":
            return 2 * self.elements
        return self.elements + _SCALE_BYTES * self.scales


def scales(heads: int, rows: int, columns: int) -> int:
    """Scales of ``heads`` matrices: one for each column of up to 128 rows.

    Where matrices have few rows (Mamba's channels have one), they are joined.
    """
    if rows < _FEWEST_ROWS:
        heads, rows = 1, heads * rows
    return heads * columns * -(-rows // _MOST_ROWS)
