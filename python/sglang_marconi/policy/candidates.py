"""Choosing the least useful of many candidates, without a Python loop over them."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_INITIAL_ROWS = 64


class CandidateTable(Generic[T]):
    """Candidates for one eviction, as columns that numpy scores in one pass.

    Each candidate has a *recency* (time of its last use on a logical clock) and a
    *efficiency* (FLOPs a hit on it saves, per byte its eviction frees). `add`, `update`,
    `touch` and `discard` take constant time, `least_useful` one vectorised pass. The
    choice depends only on the sequence of calls, so it is the same in every process.
    """

    def __init__(self) -> None:
        self._owners: list[T] = []
        self._rows: dict[T, int] = {}
        self._recency = np.empty(_INITIAL_ROWS)
        self._efficiency = np.empty(_INITIAL_ROWS)
        self._score = np.empty(_INITIAL_ROWS)
        self._scratch = np.empty(_INITIAL_ROWS)

    def __len__(self) -> int:
        return len(self._owners)

    def __contains__(self, owner: T) -> bool:
        return owner in self._rows

    def add(self, owner: T, recency: float, efficiency: float) -> None:
        """A new candidate; it must not be one already."""
        row = len(self._owners)
        if row == len(self._recency):
            self._grow()
        self._owners.append(owner)
        self._rows[owner] = row
        self._recency[row] = recency
        self._efficiency[row] = efficiency

    def discard(self, owner: T) -> None:
        """Not a candidate any more; the last row takes the free place."""
        row = self._rows.pop(owner)
        last = self._owners.pop()
        end = len(self._owners)
        if row != end:
            self._owners[row] = last
            self._rows[last] = row
            self._recency[row] = self._recency[end]
            self._efficiency[row] = self._efficiency[end]

    def touch(self, owner: T, recency: float) -> None:
        """It was used at ``recency``."""
        self._recency[self._rows[owner]] = recency

    def reprice(self, owner: T, efficiency: float) -> None:
        """What evicting it frees, or what a hit on it saves, has changed."""
        self._efficiency[self._rows[owner]] = efficiency

    def least_useful(self, alpha: float) -> T:
        """The candidate with the least utility; there must be one.

        Utility is ``recency + alpha * efficiency``, both min-max normalised over the
        candidates (Marconi, arXiv 2411.19379, section 4.2); a term that is the same for
        all of them counts as 0.
        """
        end = len(self._owners)
        # Adding a constant does not move the minimum, so neither term is shifted to 0.
        score = _scaled(self._recency[:end], 1.0, self._score[:end])
        if alpha:
            score += _scaled(self._efficiency[:end], alpha, self._scratch[:end])
        return self._owners[score.argmin()]

    def _grow(self) -> None:
        rows = 2 * len(self._recency)
        self._recency = np.resize(self._recency, rows)
        self._efficiency = np.resize(self._efficiency, rows)
        self._score = np.empty(rows)
        self._scratch = np.empty(rows)


def _scaled(
    values: NDArray[np.float64], weight: float, out: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``values`` scaled so that they span ``weight``, in ``out``; all equal ones become 0."""
    # On short arrays argmin takes a quarter of the time of min.
    span = values.item(values.argmax()) - values.item(values.argmin())
    return np.multiply(values, weight / span if span else 0.0, out)


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
