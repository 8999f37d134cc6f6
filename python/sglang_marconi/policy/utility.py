"""The paper's utility: how recently a prefix was used, and what a hit on it saves for its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.ranking import Candidate, Placed, Ranking, Standing, Valuation
from sglang_marconi.policy.table import Table
from sglang_marconi.policy.tiers import Ordered, Tiers

T = TypeVar("T")

_RECENCY, _EFFICIENCY = range(2)
# Utilities that differ by no more of what recency spans are equal, but for rounding.
_TIE = 1e-9


class PaperUtility(Valuation):
    """Recency and FLOP efficiency, ``alpha`` times the latter (arXiv 2411.19379, section 4.2).

    Alpha 0 is LRU; it may be changed at any time. Before utility decides, the `Tier` of a
    candidate does.
    """

    def __init__(self, alpha: float = 0.0) -> None:
        self.alpha: float = alpha

    def ranking(self) -> Ranking:
        return _UtilityRanking(self)


class Step(Ordered):
    """What is given up, in the order in which it goes."""

    STATELESS = "nothing resumes there"
    DEMOTION = "demotions"
    PLAIN = "checkpoints with at most one child"
    PLAIN_ABOVE = "checkpoints with at most one child, in use below"
    BRANCH = "branch points"
    BRANCH_ABOVE = "branch points, in use below"


class Tier(NamedTuple):
    """What goes before or after others, however useful; what a session refers to goes last."""

    of_session: bool
    step: Step

    @classmethod
    def of(cls, node: PrefixNode, candidate: Candidate) -> Tier:
        if not candidate.resumable:
            step = Step.STATELESS
        elif candidate.demotion:
            step = Step.DEMOTION
        elif len(node.children) > 1:
            step = Step.BRANCH_ABOVE if node.running_below else Step.BRANCH
        else:
            step = Step.PLAIN_ABOVE if node.running_below else Step.PLAIN
        return cls(candidate.referenced, step)

    @property
    def words(self) -> str:
        """What people are shown."""
        return self.step.words + (", of a session" if self.of_session else "")


TIERS = tuple(Tier(of_session, step) for of_session in (False, True) for step in Step)
"""In the order in which they go."""


class _UtilityRanking(Ranking):
    def __init__(self, utility: PaperUtility) -> None:
        self._utility = utility
        self._tiers: Tiers[PrefixNode, Tier, CandidateTable[PrefixNode]] = Tiers(
            {tier: CandidateTable() for tier in TIERS}
        )

    def place(self, node: PrefixNode, candidate: Candidate) -> None:
        self._tiers.put(Tier.of(node, candidate), node, node.last_use, candidate.efficiency)

    def discard(self, node: PrefixNode) -> None:
        self._tiers.discard(node)

    def least_useful(self) -> PrefixNode | None:
        table = self._tiers.first()
        return None if table is None else table.least_useful(self._utility.alpha)

    def standing(self, node: PrefixNode) -> Standing | None:
        found = self._tiers.find(node)
        if found is None:
            return None
        tier, table = found
        return Standing(tier.words, table.utility(node, self._utility.alpha))

    def placed(self) -> Iterator[Placed]:
        for tier, table in self._tiers.queues():
            for node, (recency, efficiency) in table.rows():
                yield Placed(node, tier.words, efficiency, recency)


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
