"""Choosing the least useful of many candidates, without a Python loop over them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_INITIAL_ROWS = 64
# Utilities that differ by no more of what recency spans are equal, but for rounding.
_TIE = 1e-9


class _Column:
    """One number a candidate; the least and the greatest are looked for only if one left."""

    __slots__ = ("_high", "_low", "values")

    def __init__(self) -> None:
        self.values: NDArray[np.float64] = np.empty(_INITIAL_ROWS)
        self._low: float | None = None
        self._high: float | None = None

    def put(self, row: int, value: float) -> None:
        """Write a number over one that is not counted any more."""
        self.values[row] = value
        if self._low is not None and value < self._low:
            self._low = value
        if self._high is not None and value > self._high:
            self._high = value

    def take(self, row: int) -> float:
        """The number in ``row``, which counts no more."""
        value: float = self.values.item(row)
        if value == self._low:
            self._low = None
        if value == self._high:
            self._high = None
        return value

    def span(self, rows: int) -> float:
        """The greatest of the first ``rows`` numbers minus the least."""
        # On short arrays argmin takes a quarter of the time of min.
        values = self.values[:rows]
        if self._low is None:
            self._low = values.item(values.argmin())
        if self._high is None:
            self._high = values.item(values.argmax())
        return self._high - self._low


class CandidateTable(Generic[T]):
    """Candidates for one eviction, as columns that numpy scores in one pass.

    Each candidate has a *recency* (time of its last use on a logical clock) and an
    *efficiency* (FLOPs a hit on it saves, per byte its eviction frees). `add`, `touch`,
    `reprice` and `discard` take constant time, `least_useful` one vectorised pass. The
    choice depends only on the sequence of calls, so it is the same in every process.
    """

    def __init__(self) -> None:
        self._owners: list[T] = []
        self._rows: dict[T, int] = {}
        self._recency = _Column()
        self._efficiency = _Column()
        self._score = np.empty(_INITIAL_ROWS)

    def __len__(self) -> int:
        return len(self._owners)

    def __contains__(self, owner: T) -> bool:
        return owner in self._rows

    def add(self, owner: T, recency: float, efficiency: float) -> None:
        """A new candidate; it must not be one already."""
        row = len(self._owners)
        if row == len(self._score):
            self._grow()
        self._owners.append(owner)
        self._rows[owner] = row
        self._recency.put(row, recency)
        self._efficiency.put(row, efficiency)

    def discard(self, owner: T) -> None:
        """Not a candidate any more; the last row takes the free place."""
        row = self._rows.pop(owner)
        last = self._owners.pop()
        end = len(self._owners)
        self._recency.take(row)
        self._efficiency.take(row)
        if row != end:
            self._owners[row] = last
            self._rows[last] = row
            self._recency.values[row] = self._recency.values[end]
            self._efficiency.values[row] = self._efficiency.values[end]

    def touch(self, owner: T, recency: float) -> None:
        """It was used at ``recency``."""
        row = self._rows[owner]
        self._recency.take(row)
        self._recency.put(row, recency)

    def reprice(self, owner: T, efficiency: float) -> None:
        """What evicting it frees, or what a hit on it saves, has changed."""
        row = self._rows[owner]
        self._efficiency.take(row)
        self._efficiency.put(row, efficiency)

    def least_useful(self, alpha: float) -> T:
        """The candidate with the least utility; there must be one.

        Utility is ``recency + alpha * efficiency``, both min-max normalised over the
        candidates (Marconi, arXiv 2411.19379, section 4.2); a term that is the same for
        all of them counts as 0. Of equally useful ones the one used longest ago goes: of two
        candidates of which one is more recent and the other more efficient, alpha 1 makes
        both equally useful.
        """
        rows = len(self._owners)
        recency = self._recency.values[:rows]
        # Shifting or scaling the sum does not move its minimum: recency stays as it is.
        span = self._efficiency.span(rows) if alpha else 0.0
        if not span:
            return self._owners[recency.argmin()]
        # Where all are equally recent, efficiency decides alone, at any weight.
        unit = self._recency.span(rows) or 1.0
        score = np.multiply(self._efficiency.values[:rows], alpha * unit / span, self._score[:rows])
        score += recency
        least = score.argmin()
        tied = (score <= score[least] + _TIE * unit).nonzero()[0]
        if len(tied) > 1:
            least = tied[recency[tied].argmin()]
        return self._owners[least]

    def utility(self, owner: T, alpha: float) -> float:
        """What `least_useful` compares, for one candidate: from 0 to ``1 + alpha``."""
        rows, row = len(self._owners), self._rows[owner]

        def normalised(column: _Column) -> float:
            values = column.values[:rows]
            low = values.item(values.argmin())
            return float((values[row] - low) / (column.span(rows) or 1.0))

        return normalised(self._recency) + alpha * normalised(self._efficiency)

    def rows(self) -> Iterator[tuple[T, float, float]]:
        """Each candidate with its recency and efficiency."""
        rows = len(self._owners)
        columns = (column.values[:rows].tolist() for column in (self._recency, self._efficiency))
        yield from zip(self._owners, *columns, strict=True)

    def _grow(self) -> None:
        rows = 2 * len(self._score)
        for column in (self._recency, self._efficiency):
            column.values = np.resize(column.values, rows)
        self._score = np.empty(rows)


class RankedCandidates(Generic[T]):
    """Candidates in ranks: as long as a lower rank has one, no higher rank gives one up.

    Utility is normalised within a rank, which is where it decides.
    """

    def __init__(self, ranks: int) -> None:
        self._tables = tuple(CandidateTable[T]() for _ in range(ranks))
        self._table_of: dict[T, CandidateTable[T]] = {}

    def __len__(self) -> int:
        return len(self._table_of)

    def place(self, owner: T, rank: int, recency: float, efficiency: float) -> None:
        """Make ``owner`` a candidate of this rank, or bring it up to date."""
        table = self._tables[rank]
        before = self._table_of.get(owner)
        if before is table:
            table.touch(owner, recency)
            table.reprice(owner, efficiency)
            return
        if before is not None:
            before.discard(owner)
        table.add(owner, recency, efficiency)
        self._table_of[owner] = table

    def discard(self, owner: T) -> None:
        """Not a candidate, if it was one."""
        table = self._table_of.pop(owner, None)
        if table is not None:
            table.discard(owner)

    def least_useful(self, alpha: float) -> T | None:
        """The least useful candidate of the lowest rank that has any."""
        for table in self._tables:
            if table:
                return table.least_useful(alpha)
        return None

    def standing(self, owner: T, alpha: float) -> tuple[int, float] | None:
        """Rank and utility of a candidate; ``None`` if it is none."""
        table = self._table_of.get(owner)
        return None if table is None else (self._tables.index(table), table.utility(owner, alpha))

    def rows(self) -> Iterator[tuple[T, int, float, float]]:
        """Each candidate with its rank, recency and efficiency."""
        for rank, table in enumerate(self._tables):
            for owner, recency, efficiency in table.rows():
                yield owner, rank, recency, efficiency
