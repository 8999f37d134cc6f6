"""The paper's utility: how recently a prefix was used, and what a hit on it saves for its bytes."""

from __future__ import annotations

from collections.abc import Iterator

from sglang_marconi.policy.candidates import RankedCandidates
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.ranking import Candidate, Placed, Ranking, Standing, Valuation

# Ranks, in the order in which they go; what a session refers to has _REFERENCED added.
_STATELESS, _DEMOTION, _PLAIN, _PLAIN_ABOVE, _BRANCH, _BRANCH_ABOVE, _REFERENCED = range(7)
_RANKS = 2 * _REFERENCED
_NAMES = (
    *("nothing resumes there", "demotions"),
    *("checkpoints with at most one child", "checkpoints with at most one child, in use below"),
    *("branch points", "branch points, in use below"),
)


class PaperUtility(Valuation):
    """Recency and FLOP efficiency, ``alpha`` times the latter (arXiv 2411.19379, section 4.2).

    Alpha 0 is LRU; it may be changed at any time. Before utility decides, the kind of node does:
    what nothing can resume at goes first; states are demoted before any is evicted; then go nodes
    with at most one child, then branch points; what stands above a running request goes after
    others of its kind.
    """

    def __init__(self, alpha: float = 0.0) -> None:
        self.alpha: float = alpha

    def ranking(self) -> Ranking:
        return _UtilityRanking(self)


class _UtilityRanking(Ranking):
    def __init__(self, utility: PaperUtility) -> None:
        self._utility = utility
        self._candidates: RankedCandidates[PrefixNode] = RankedCandidates(_RANKS)

    def place(self, node: PrefixNode, candidate: Candidate) -> None:
        self._candidates.place(node, _rank(node, candidate), node.last_use, candidate.efficiency)

    def discard(self, node: PrefixNode) -> None:
        self._candidates.discard(node)

    def least_useful(self) -> PrefixNode | None:
        return self._candidates.least_useful(self._utility.alpha)

    def standing(self, node: PrefixNode) -> Standing | None:
        found = self._candidates.standing(node, self._utility.alpha)
        if found is None:
            return None
        rank, utility = found
        return Standing(_group(rank), utility)

    def placed(self) -> Iterator[Placed]:
        for node, rank, recency, efficiency in self._candidates.rows():
            yield Placed(node, _group(rank), efficiency, recency)


def _group(rank: int) -> str:
    return _NAMES[rank % _REFERENCED] + (", of a session" if rank >= _REFERENCED else "")


def _rank(node: PrefixNode, candidate: Candidate) -> int:
    if not candidate.resumable:
        rank = _STATELESS
    elif candidate.demotion:
        rank = _DEMOTION
    elif len(node.children) > 1:
        rank = _BRANCH_ABOVE if node.running_below else _BRANCH
    else:
        rank = _PLAIN_ABOVE if node.running_below else _PLAIN
    return rank + _REFERENCED if candidate.referenced else rank
