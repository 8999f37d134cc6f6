"""Nodes of a cached tree that work out what they are worth when asked."""

from __future__ import annotations

from collections.abc import Iterable

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.utility import PaperUtility

# Utilities that differ by less are equal.
_TIE = 1e-9


def valuation(alpha: float | None) -> Valuation:
    """The paper's utility; without alpha, the prediction of reuse."""
    return PredictedReuse() if alpha is None else PaperUtility(alpha)


class NaiveNode:
    """A node as it is told about; whatever follows from that is worked out when asked for."""

    def __init__(self, parent: NaiveNode | None, depth: int, last_use: tuple[int, int]) -> None:
        self.parent = parent
        self.depth = depth
        # Ticks, and uses since the last tick.
        self.last_use = last_use
        self.children: list[NaiveNode] = []
        self.has_state = False
        self.locked = False
        self.offered = False
        self.state_referenced = False
        self.kv_referenced = False

    @property
    def recency(self) -> float:
        ticks, uses = self.last_use
        return ticks + uses / 2**20

    def above(self) -> Iterable[NaiveNode]:
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def saved_flops(self, cost: ModelCost) -> float:
        start = next((node.depth for node in self.above() if node.has_state), 0)
        return cost.prefill_flops(start, self.depth)

    @property
    def running_below(self) -> bool:
        return any(child.locked or child.running_below for child in self.children)

    def state_rank(self) -> int:
        rank = (3 if len(self.children) > 1 else 1) + self.running_below
        return rank + 5 * self.state_referenced

    def leaf_rank(self) -> int:
        return self.has_state + 5 * self.kv_referenced

    def leaf_worth(self, cost: ModelCost) -> float:
        if not self.has_state:
            return 0.0
        kept = (node for node in self.above() if node.has_state or len(node.children) > 1)
        start = next((node.depth for node in kept), 0)
        held = cost.state_bytes + cost.kv_bytes(self.depth - start)
        return self.saved_flops(cost) / held


Candidate = tuple[int, float, float]


def assert_least_useful(
    victim: NaiveNode | None, candidates: dict[NaiveNode, Candidate], alpha: float
) -> None:
    """``candidates``: their rank, recency and efficiency. Of equal ones, the older is less so."""
    if victim is None:
        assert not candidates
        return
    lowest = min(rank for rank, _, _ in candidates.values())
    assert victim in candidates
    assert candidates[victim][0] == lowest
    peers = [row for row in candidates.values() if row[0] == lowest]
    recencies = [recency for _, recency, _ in peers]
    worths = [worth for _, _, worth in peers]
    recency_span, worth_span = max(recencies) - min(recencies), max(worths) - min(worths)

    def utility(row: Candidate) -> float:
        _, recency, worth = row
        utility = (recency - min(recencies)) / recency_span if recency_span else 0.0
        if worth_span:
            utility += alpha * (worth - min(worths)) / worth_span
        return utility

    # The policy adds both as they are, not from 0 on: it rounds at their own size.
    rounding = 2.0**-50 * (
        (max(recencies) / recency_span if recency_span else 0.0)
        + (alpha * max(worths) / worth_span if worth_span else 0.0)
    )
    least = min(map(utility, peers))
    assert utility(candidates[victim]) <= least + _TIE + rounding
    if alpha == 0 or rounding < _TIE / 10:
        equal = [row for row in peers if utility(row) <= least + _TIE / 10]
        assert candidates[victim][1] <= min(recency for _, recency, _ in equal)


def assert_in_first_tier(victim: NaiveNode | None, candidates: dict[NaiveNode, Candidate]) -> None:
    """Without a state before others; of those without, the oldest; what sessions use last."""
    if victim is None:
        assert not candidates
        return

    def tier(row: Candidate) -> tuple[bool, bool, float]:
        rank, recency, _ = row
        referenced, kind = divmod(rank, 5)
        return referenced > 0, kind > 0, 0.0 if kind else recency

    assert victim in candidates
    assert tier(candidates[victim]) == min(map(tier, candidates.values()))
