"""A cache that knows the future: an upper mark for the others, not a policy to run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.candidates import CandidateTable
from sglang_marconi.policy.eviction import SharedBudgetEviction
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.utility import PaperUtility
from sglang_marconi.simulate.shared_budget import SharedBudgetCache
from sglang_marconi.simulate.tree import RadixTree, TreeNode
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens

_NEVER = float("inf")


class Future:
    """When each prefix of a trace is asked for, by the number of the request (from 0)."""

    def __init__(self, requests: Sequence[TraceRequest]) -> None:
        self._tree = RadixTree()
        self._uses: dict[TreeNode, list[int]] = {}
        for request in requests:
            # The last token of a prompt is computed whatever is cached.
            end = len(request.prompt) - 1
            walk = self._tree.walk(request.prompt, end)
            node = walk.path[-1] if walk.path else self._tree.root
            if walk.partial is not None:
                node = self._tree.split(walk.partial, walk.shared)
            if node.depth < end:
                self._tree.add(node, request.prompt, end)
        for number, request in enumerate(requests):
            for node in self._tree.walk(request.prompt, len(request.prompt) - 1).path:
                self._uses.setdefault(node, []).append(number)

    def next_hits(self, sequence: Tokens, nodes: Sequence[PrefixNode], after: int) -> list[float]:
        """For each node of a path along ``sequence``, from the top: the first request after
        ``after`` that would resume there, or infinity.

        A request that goes on to a state further down the path resumes there instead.
        """
        walk = self._tree.walk(sequence, nodes[-1].depth if nodes else 0)
        asked = [*walk.path, *([walk.partial] if walk.partial is not None else [])]
        hits: list[float] = []
        served_below: list[int] = []
        at = len(asked) - 1
        for node in reversed(nodes):
            if node.depth > walk.shared:
                hits.append(_NEVER)
                continue
            while at and asked[at - 1].depth >= node.depth:
                at -= 1
            uses = self._uses[asked[at]]
            hits.append(_first_not_in(served_below, uses, after))
            if node.has_state:
                served_below = uses
        return hits[::-1]


def _first_not_in(served: Sequence[int], uses: Sequence[int], after: int) -> float:
    """The first of ``uses`` above ``after`` that is not in ``served``; both are sorted."""
    at, other = bisect_right(uses, after), bisect_right(served, after)
    while at < len(uses):
        if other == len(served) or uses[at] != served[other]:
            return uses[at]
        at, other = at + 1, other + 1
    return _NEVER


class _Foreseen(CandidateTable[PrefixNode]):
    """Scores by what a candidate saves per byte and unit of time until it is used again.

    Its *recency* is the number of the request that uses it next.
    """

    now = 0

    def least_useful(self, alpha: float) -> PrefixNode:
        rows = len(self._owners)
        wait = self._recency.values[:rows] - self.now
        # What the present request uses has no wait, and infinite worth.
        with np.errstate(divide="ignore", invalid="ignore"):
            score = np.divide(self._efficiency.values[:rows], wait, self._score[:rows])
        return self._owners[score.argmin()]


class ClairvoyantEviction(SharedBudgetEviction):
    """Gives up what saves least per byte and unit of time, by the uses it is told of."""

    def __init__(self, cost: ModelCost) -> None:
        super().__init__(cost, PaperUtility(0.0))

    def clear(self) -> None:
        super().clear()
        self._foreseen = _Foreseen()
        self._next: dict[PrefixNode, float] = {}

    def advance(self, number: int) -> None:
        """Request ``number`` is being served."""
        self._foreseen.now = number

    def foresee(self, node: PrefixNode, number: float) -> None:
        """Request ``number`` is the next that would resume at ``node``."""
        self._next[node] = number
        self._stale[node] = None

    def drop_state(self, node: PrefixNode) -> None:
        self._leave_to_above(node)
        super().drop_state(node)

    def remove(self, node: PrefixNode) -> None:
        if node.has_state:
            self._leave_to_above(node)
        super().remove(node)

    def _leave_to_above(self, node: PrefixNode) -> None:
        """Who would have resumed at ``node`` will at the nearest state above it."""
        above = node.parent
        while above is not None and not above.has_state:
            above = above.parent
        if above is not None:
            self.foresee(above, min(self._next.get(above, _NEVER), self._next.get(node, _NEVER)))

    def least_useful(self) -> PrefixNode | None:
        self._settle()
        return self._foreseen.least_useful(0.0) if self._foreseen else None

    def _place(self, node: PrefixNode) -> None:
        if node in self._foreseen:
            self._foreseen.discard(node)
        saved = self._saved_flops(node)
        candidate = self._leaf(node, saved) or self._inner(node, saved)
        if candidate is not None:
            self._foreseen.add(node, self._next.get(node, _NEVER), candidate.efficiency)

    def _forget(self, node: PrefixNode) -> None:
        if node in self._foreseen:
            self._foreseen.discard(node)
        self._next.pop(node, None)


class ClairvoyantCache(SharedBudgetCache):
    """Serves a trace that it knows from the beginning."""

    policy: ClairvoyantEviction

    def __init__(self, cost: ModelCost, total_bytes: int, requests: Sequence[TraceRequest]) -> None:
        super().__init__(cost, ClairvoyantEviction(cost), total_bytes)
        self._future = Future(requests)
        self._served = 0

    def serve(self, request: TraceRequest) -> int:
        self.policy.advance(self._served)
        hit = super().serve(request)
        sequence = request.prompt + request.reply
        nodes = [node.prefix for node in self._tree.walk(sequence, len(sequence)).path]
        for node, number in zip(
            nodes, self._future.next_hits(sequence, nodes, self._served), strict=True
        ):
            self.policy.foresee(node, number)
        self._served += 1
        return hit
