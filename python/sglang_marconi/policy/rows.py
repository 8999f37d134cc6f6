"""Rows of numbers that numpy works on in one pass, each with an owner."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_INITIAL_ROWS = 64


class Rows(Generic[T]):
    """A table of float64 columns without gaps; the order of rows depends on the calls alone."""

    def __init__(self, columns: int) -> None:
        self.owners: list[T] = []
        self._row_of: dict[T, int] = {}
        self._values = np.empty((columns, _INITIAL_ROWS))

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def columns(self) -> NDArray[np.float64]:
        """Shape ``[columns, rows]``, to be written to as well."""
        return self._values[:, : len(self.owners)]

    def put(self, owner: T, *numbers: float) -> None:
        """Write the row of ``owner``, which is new or not."""
        row = self._row_of.get(owner)
        if row is None:
            row = len(self.owners)
            if row == self._values.shape[1]:
                self._values = np.concatenate((self._values, np.empty_like(self._values)), axis=1)
            self._row_of[owner] = row
            self.owners.append(owner)
        self._values[:, row] = numbers

    def get(self, owner: T) -> list[float] | None:
        """The row of ``owner``, if there is one."""
        row = self._row_of.get(owner)
        return None if row is None else self._values[:, row].tolist()

    def discard(self, owner: T) -> None:
        """Take the row of ``owner`` out, if there is one; the last row takes its place."""
        row = self._row_of.pop(owner, None)
        if row is None:
            return
        last = self.owners.pop()
        if row != len(self.owners):
            self.owners[row] = last
            self._row_of[last] = row
            self._values[:, row] = self._values[:, len(self.owners)]
