"""A cache that knows the future: a mark for the others, not a policy to run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.eviction import SharedBudgetEviction
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.ranking import Candidate, Placed, Ranking, Standing, Valuation
from sglang_marconi.policy.table import Table
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


class Foresight(Valuation):
    """What a hit saves per byte and request until it comes, by a trace known from the beginning.

    Who serves the trace tells it of each request, by `served`.
    """

    def __init__(self, requests: Sequence[TraceRequest]) -> None:
        self._future = Future(requests)
        # The number of the request that is being served.
        self.now = 0
        self.clear()

    def attach(self, notice: Callable[[PrefixNode], None]) -> None:
        self._notice = notice

    def clear(self) -> None:
        # The request that resumes there next, for the nodes that have a state.
        self._next: dict[PrefixNode, float] = {}

    def ranking(self) -> Ranking:
        return _ForeseenRanking(self)

    def gone(self, node: PrefixNode, now: float) -> None:
        """Who would have resumed at ``node`` will at the nearest state above it."""
        number = self._next.pop(node, _NEVER)
        above = node.parent
        while above is not None and not above.has_state:
            above = above.parent
        if above is not None:
            self._foresee(above, min(self.next_use(above), number))

    def served(self, sequence: Tokens, nodes: Sequence[PrefixNode]) -> None:
        """The present request left ``nodes``, a path along ``sequence``; the next one comes."""
        numbers = self._future.next_hits(sequence, nodes, self.now)
        for node, number in zip(nodes, numbers, strict=True):
            self._foresee(node, number)
        self.now += 1

    def next_use(self, node: PrefixNode) -> float:
        """The number of the request that resumes at ``node`` next, or infinity."""
        return self._next.get(node, _NEVER)

    def _foresee(self, node: PrefixNode, number: float) -> None:
        if node.has_state:
            self._next[node] = number
        self._notice(node)


class _ForeseenRanking(Ranking):
    """The least worth goes first: efficiency over the requests until the next use."""

    def __init__(self, foresight: Foresight) -> None:
        self._foresight = foresight
        # Efficiency, and the request that uses it next.
        self._rows: Table[PrefixNode] = Table(2)

    def place(self, node: PrefixNode, candidate: Candidate) -> None:
        # At the end: of all that no request uses again, what changed last does not go first.
        self._rows.discard(node)
        self._rows.put(node, candidate.efficiency, self._foresight.next_use(node))

    def discard(self, node: PrefixNode) -> None:
        self._rows.discard(node)

    def least_useful(self) -> PrefixNode | None:
        if not self._rows:
            return None
        efficiency, number = self._rows.columns
        return self._rows.owners[self._worth(efficiency, number).argmin()]

    def standing(self, node: PrefixNode) -> Standing | None:
        row = self._rows.get(node)
        return None if row is None else Standing("all", float(self._worth(*np.array(row))))

    def placed(self) -> Iterator[Placed]:
        for node, (efficiency, _) in self._rows.rows():
            yield Placed(node, "all", efficiency, node.last_use)

    def _worth(
        self, efficiency: NDArray[np.float64], number: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        # What the present request uses has no wait, and infinite worth.
        with np.errstate(divide="ignore", invalid="ignore"):
            return efficiency / (number - self._foresight.now)


class ClairvoyantCache(SharedBudgetCache):
    """Serves a trace that it knows from the beginning."""

    def __init__(self, cost: ModelCost, total_bytes: int, requests: Sequence[TraceRequest]) -> None:
        self._foresight = Foresight(requests)
        super().__init__(cost, SharedBudgetEviction(cost, self._foresight), total_bytes)

    def serve(self, request: TraceRequest) -> int:
        hit = super().serve(request)
        sequence = request.prompt + request.reply
        path = self._tree.walk(sequence, len(sequence)).path
        self._foresight.served(sequence, [node.prefix for node in path])
        return hit
