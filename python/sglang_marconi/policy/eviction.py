"""What a cache gives up when it is short of room: a state, or a leaf's KV.

Utility is Marconi's (arXiv 2411.19379, section 4.2): how recently a prefix was used, and
how many FLOPs a hit on it saves for each byte that evicting it frees. What decides before
utility does is the kind of node:

| short of | candidates, first to go first                                        | frees        |
|----------|----------------------------------------------------------------------|--------------|
| states   | 1. outgrown: one child, never branched, not hit since it has grown    | the state    |
|          | 2. other states with at most one child                                | the state    |
|          | 3. such states above a running request                               | the state    |
|          | 4. branch points: states with several children                       | the state    |
|          | 5. branch points above a running request                             | the state    |
| KV       | 1. leaves without a state: nothing can resume there                  | its KV       |
|          | 2. leaves with one                                                   | KV and state |

Where states and KV share one budget, both kinds are candidates at once: leaves without a
state, then outgrown states, then leaves and states with at most one child by utility, and
so on. Candidates that a session refers to come after all others. A state in use and
a leaf whose KV is in use are no candidates. A leaf that lost its state keeps its KV until KV
is short: it still shows where later prompts branch off.

The owner of the cached tree reports each change to it and asks for victims. The policy
notes which nodes a change concerns and looks at them again when the next victim is asked
for, so that it never walks the tree. It knows neither tokens nor memory.
"""

from __future__ import annotations

from typing import NamedTuple

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.candidates import RankedCandidates
from sglang_marconi.policy.ledger import PrefixLedger, PrefixNode

# Ranks, in the order in which they go; what a session refers to has _REFERENCED added.
_STATELESS, _OUTGROWN, _PLAIN, _PLAIN_ABOVE, _BRANCH, _BRANCH_ABOVE, _REFERENCED = range(7)
_RANKS = 2 * _REFERENCED


class Candidate(NamedTuple):
    """A node's rank, and the FLOPs a hit on it saves for each byte its eviction frees."""

    rank: int
    efficiency: float


class UtilityEviction(PrefixLedger):
    """What each node is worth to the cache; subclasses say what competes with what.

    Args:
        cost: FLOPs and bytes of a prefix.
        alpha: weight of FLOP efficiency against recency; 0 is LRU.
        outgrown_first: whether outgrown states go first; without it, they compete with the
            others of at most one child, as in the paper.
    """

    def __init__(self, cost: ModelCost, *, alpha: float, outgrown_first: bool = True) -> None:
        self.alpha = alpha
        self._cost = cost
        self._outgrown_first = outgrown_first
        self.clear()

    def _state(self, node: PrefixNode, saved: float) -> Candidate | None:
        """``node`` as a candidate to lose its state, on which a hit saves ``saved`` FLOPs."""
        if not node.has_state or node.state_in_use:
            return None
        if len(node.children) > 1:
            rank = _BRANCH_ABOVE if node.running_below else _BRANCH
        elif node.outgrown and self._outgrown_first:
            rank = _OUTGROWN
        else:
            rank = _PLAIN_ABOVE if node.running_below else _PLAIN
        if node.state_referenced:
            rank += _REFERENCED
        # Without recurrent layers a state takes no room; the paper's grid has such a model.
        return Candidate(rank, saved / (self._cost.state_bytes or 1))

    def _leaf(self, node: PrefixNode, saved: float) -> Candidate | None:
        """``node`` as a candidate to lose its KV, and with it the state worth ``saved`` FLOPs."""
        if not node.leaf_offered:
            return None
        rank, efficiency = _STATELESS, 0.0
        if node.has_state:
            rank = _PLAIN
            efficiency = saved / self._leaf_bytes(node)
        if node.kv_referenced:
            rank += _REFERENCED
        return Candidate(rank, efficiency)

    def _saved_flops(self, node: PrefixNode) -> float:
        """FLOPs that a hit on ``node`` saves beyond one on the nearest state above it."""
        if not node.has_state:
            return 0.0
        above = node.parent
        while above is not None and not above.has_state:
            above = above.parent
        return self._cost.prefill_flops(above.depth if above is not None else 0, node.depth)

    def _leaf_bytes(self, node: PrefixNode) -> int:
        """Bytes held for the sake of a leaf with a state: the state and its KV.

        Its KV goes back to the nearest node that is kept for its own sake, by a state or
        by another child: what lies between is of no use without the leaf, and goes next.
        """
        above = node.parent
        while above is not None and not above.has_state and len(above.children) == 1:
            above = above.parent
        start = above.depth if above is not None else 0
        return self._cost.state_bytes + self._cost.kv_bytes(node.depth - start)


class EvictionPolicy(UtilityEviction):
    """For a cache with a pool for states and a pool for KV."""

    def clear(self) -> None:
        super().clear()
        self._states: RankedCandidates[PrefixNode] = RankedCandidates(_RANKS)
        self._leaves: RankedCandidates[PrefixNode] = RankedCandidates(_RANKS)

    def least_useful_state(self) -> PrefixNode | None:
        """The node whose state goes first; ``None`` if every state is in use."""
        self._settle()
        return self._states.least_useful(self.alpha)

    def least_useful_leaf(self) -> PrefixNode | None:
        """The node whose KV, and with it its state, goes first; ``None`` without a leaf."""
        self._settle()
        return self._leaves.least_useful(self.alpha)

    def _place(self, node: PrefixNode) -> None:
        saved = self._saved_flops(node)
        _put(self._states, node, self._state(node, saved))
        _put(self._leaves, node, self._leaf(node, saved))

    def _forget(self, node: PrefixNode) -> None:
        self._states.discard(node)
        self._leaves.discard(node)


class SharedBudgetEviction(UtilityEviction):
    """For a cache with one budget for states and KV."""

    def clear(self) -> None:
        super().clear()
        self._nodes: RankedCandidates[PrefixNode] = RankedCandidates(_RANKS)

    def least_useful(self) -> PrefixNode | None:
        """The node that goes first: a leaf with its KV and state, another one's state."""
        self._settle()
        return self._nodes.least_useful(self.alpha)

    def _place(self, node: PrefixNode) -> None:
        saved = self._saved_flops(node)
        _put(self._nodes, node, self._leaf(node, saved) or self._inner(node, saved))

    def _inner(self, node: PrefixNode, saved: float) -> Candidate | None:
        """``node`` as a candidate where it is not a leaf."""
        return self._state(node, saved) if node.children else None

    def _forget(self, node: PrefixNode) -> None:
        self._nodes.discard(node)


class LeafEviction(SharedBudgetEviction):
    """One budget where nothing but leaves is evicted: the paper's "SGLang+" with alpha 0."""

    def _inner(self, node: PrefixNode, saved: float) -> Candidate | None:
        return None


def _put(
    queue: RankedCandidates[PrefixNode], node: PrefixNode, candidate: Candidate | None
) -> None:
    if candidate is None:
        queue.discard(node)
    else:
        queue.place(node, candidate.rank, node.last_use, candidate.efficiency)
