"""Choosing the least useful of many candidates, without a Python loop over them."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np

from sglang_marconi.policy.table import Table

T = TypeVar("T")

_RECENCY, _EFFICIENCY = range(2)
# Utilities that differ by no more of what recency spans are equal, but for rounding.
_TIE = 1e-9


class CandidateTable(Table[T]):
    """Candidates for one eviction, as columns that numpy scores in one pass.

    Each candidate has a *recency* (time of its last use on a logical clock) and an
    *efficiency* (FLOPs a hit on it saves, per byte its eviction frees), `put` in this order.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def least_useful(self, alpha: float) -> T:
        """The candidate with the least utility; there must be one.

        Utility is ``recency + alpha * efficiency``, both min-max normalised over the
        candidates (Marconi, arXiv 2411.19379, section 4.2); a term that is the same for
        all of them counts as 0. Of equally useful ones the one used longest ago goes: of two
        candidates of which one is more recent and the other more efficient, alpha 1 makes
        both equally useful.
        """
        span = self._span(_EFFICIENCY) if alpha else 0.0
        if not span:
            return self.owner_of_least(_RECENCY)
        recency = self.column(_RECENCY)
        # Shifting or scaling the sum does not move its minimum: recency stays as it is.
        # Where all are equally recent, efficiency decides alone, at any weight.
        unit = self._span(_RECENCY) or 1.0
        scores = np.multiply(self.column(_EFFICIENCY), alpha * unit / span, self.scratch())
        scores += recency
        least = scores.argmin()
        tied = (scores <= scores[least] + _TIE * unit).nonzero()[0]
        if len(tied) > 1:
            least = tied[recency[tied].argmin()]
        return self.owners[int(least)]

    def utility(self, owner: T, alpha: float) -> float:
        """What `least_useful` compares, for one candidate: from 0 to ``1 + alpha``."""
        row = self.get(owner)
        assert row is not None
        recency, efficiency = (
            (value - self.extent(at)[0]) / (self._span(at) or 1.0) for at, value in enumerate(row)
        )
        return recency + alpha * efficiency

    def _span(self, column: int) -> float:
        low, high = self.extent(column)
        return high - low


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
        if before is not None and before is not table:
            before.discard(owner)
        self._table_of[owner] = table
        table.put(owner, recency, efficiency)

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
