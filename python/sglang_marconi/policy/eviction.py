"""Which state, or which leaf's KV, a cache gives up when it is short of room.

Utility is Marconi's (arXiv 2411.19379, section 4.2): how recently a prefix was used, and
how many FLOPs a hit on it saves for each byte that evicting it frees. What decides before
utility does is the kind of node:

| short of | candidates, first to go first                                        | frees        |
|----------|----------------------------------------------------------------------|--------------|
| states   | 1. outgrown: one child, never branched, not hit since it has grown    | the state    |
|          | 2. other states with at most one child                                | the state    |
|          | 3. branch points: states with several children                       | the state    |
| KV       | 1. leaves without a state: nothing can resume there                  | its KV       |
|          | 2. leaves with one                                                   | KV and state |

Candidates that a session refers to come after all others. A state in use and a leaf whose
KV is in use are no candidates. A leaf that lost its state keeps its KV until KV is short:
it still shows where later prompts branch off.

The owner of the cached tree reports each change to it and asks for victims. The policy
notes which nodes a change concerns and looks at them again when the next victim is asked
for, so that it never walks the tree. It knows neither tokens nor memory.
"""

from __future__ import annotations

from math import floor

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.candidates import RankedCandidates

_OUTGROWN, _PLAIN, _BRANCH = range(3)
_STATELESS, _RESUMABLE = range(2)
# One use after another within one tick of the clock: keeps their order, and no more.
_INSTANT = 2.0**-20


class PrefixNode:
    """A node of the cached tree: the prefix of ``depth`` tokens that ends there.

    ``handle`` is the owner's number for it. All else is the policy's.
    """

    __slots__ = (
        "branched",
        "children",
        "depth",
        "handle",
        "has_state",
        "kv_referenced",
        "last_use",
        "leaf_offered",
        "outgrown",
        "parent",
        "state_in_use",
        "state_referenced",
    )

    def __init__(self, handle: int, parent: PrefixNode | None, depth: int, now: float) -> None:
        self.handle = handle
        self.parent = parent
        self.depth = depth
        self.last_use = now
        self.children: dict[int, PrefixNode] = {}
        self.has_state = False
        self.state_in_use = False
        self.state_referenced = False
        self.leaf_offered = False
        self.kv_referenced = False
        self.branched = False
        self.outgrown = False


class EvictionPolicy:
    """Keeps count of a cached tree and names what to evict from it.

    Args:
        cost: FLOPs and bytes of a prefix.
        alpha: weight of FLOP efficiency against recency; 0 is LRU.
        outgrown_first: whether rank 1 of states exists; without it, outgrown nodes compete
            with the others of at most one child, as in the paper.
    """

    def __init__(self, cost: ModelCost, *, alpha: float, outgrown_first: bool = True) -> None:
        self.alpha = alpha
        self._cost = cost
        self._outgrown_first = outgrown_first
        self.clear()

    def clear(self) -> None:
        """Forget everything; ``root`` is new."""
        self._now = 0.0
        self.root = PrefixNode(-1, None, 0, self._now)
        self._states: RankedCandidates[PrefixNode] = RankedCandidates(2 * (_BRANCH + 1))
        self._leaves: RankedCandidates[PrefixNode] = RankedCandidates(2 * (_RESUMABLE + 1))
        # Nodes whose place among the candidates is to be found again; in order of report,
        # so that it is the same in every process.
        self._stale: dict[PrefixNode, None] = {}

    # ---- what happens to the tree ----

    def tick(self) -> None:
        """Time passes: once for each insertion, so that it does not depend on the machine."""
        self._now = floor(self._now) + 1.0

    def add(self, parent: PrefixNode, handle: int, depth: int) -> PrefixNode:
        """A new leaf below ``parent``, without a state; its prefix has ``depth`` tokens."""
        node = PrefixNode(handle, parent, depth, self._now)
        siblings = parent.children
        siblings[handle] = node
        if len(siblings) == 1:
            parent.outgrown = parent.has_state
            self._stale[parent] = None
        elif len(siblings) == 2:
            parent.branched, parent.outgrown = True, False
            self._stale[parent] = None
            self._reprice_chain(parent, next(iter(siblings.values())))
        return node

    def split(self, child: PrefixNode, handle: int, depth: int) -> PrefixNode:
        """A new node, without a state, between ``child`` and its parent."""
        parent = child.parent
        assert parent is not None
        upper = PrefixNode(handle, parent, depth, child.last_use)
        del parent.children[child.handle]
        parent.children[handle] = upper
        upper.children[child.handle] = child
        child.parent = upper
        return upper

    def remove(self, node: PrefixNode) -> None:
        """A leaf has left the tree."""
        self._stale.pop(node, None)
        self._states.discard(node)
        self._leaves.discard(node)
        parent = node.parent
        assert parent is not None
        siblings = parent.children
        del siblings[node.handle]
        if not siblings:
            parent.outgrown = False
            self._stale[parent] = None
        elif len(siblings) == 1:
            self._stale[parent] = None
            self._reprice_chain(parent, next(iter(siblings.values())))

    def store_state(self, node: PrefixNode) -> None:
        """``node`` has a state now; storing it is a use."""
        node.has_state, node.outgrown = True, False
        self._stamp(node)
        self._state_changed(node)

    def drop_state(self, node: PrefixNode) -> None:
        """``node`` has no state any more."""
        node.has_state = node.outgrown = False
        self._state_changed(node)

    def use(self, node: PrefixNode) -> None:
        """A prompt was found to start with ``node``'s prefix, and may resume there."""
        self._stamp(node)
        node.outgrown = False
        self._stale[node] = None

    def lock_state(self, node: PrefixNode) -> None:
        """``node``'s state, or one that it may get, is in use until unlocked."""
        node.state_in_use = True
        self._stale[node] = None

    def unlock_state(self, node: PrefixNode) -> None:
        """``node``'s state may be evicted again."""
        node.state_in_use = False
        self._stale[node] = None

    def offer_leaf(self, node: PrefixNode, *, referenced: bool = False) -> None:
        """``node`` ends the KV kept on its path, and nobody uses it: it may be evicted.

        ``referenced``: an open session refers to its KV.
        """
        node.leaf_offered, node.kv_referenced = True, referenced
        self._stale[node] = None

    def withdraw_leaf(self, node: PrefixNode) -> None:
        """``node``'s KV is in use, or its children need it."""
        node.leaf_offered = False
        self._stale[node] = None

    def refer_to_state(self, node: PrefixNode, referenced: bool) -> None:
        """Whether an open session refers to ``node``'s state."""
        node.state_referenced = referenced
        self._stale[node] = None

    def refer_to_kv(self, node: PrefixNode, referenced: bool) -> None:
        """Whether an open session refers to ``node``'s KV."""
        node.kv_referenced = referenced
        self._stale[node] = None

    # ---- what to evict ----

    def least_useful_state(self) -> PrefixNode | None:
        """The node whose state goes first; ``None`` if every state is in use."""
        self._settle()
        return self._states.least_useful(self.alpha)

    def least_useful_leaf(self) -> PrefixNode | None:
        """The node whose KV, and with it its state, goes first; ``None`` without a leaf."""
        self._settle()
        return self._leaves.least_useful(self.alpha)

    # ---- utility ----

    def _stamp(self, node: PrefixNode) -> None:
        self._now += _INSTANT
        node.last_use = self._now

    def _saved_flops(self, node: PrefixNode) -> float:
        """FLOPs that a hit on ``node`` saves beyond one on the nearest state above it."""
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

    # ---- keeping the candidates up to date ----

    def _settle(self) -> None:
        for node in self._stale:
            self._place_state(node)
            self._place_leaf(node)
        self._stale.clear()

    def _place_state(self, node: PrefixNode) -> None:
        if not node.has_state or node.state_in_use:
            self._states.discard(node)
            return
        if len(node.children) > 1:
            rank = _BRANCH
        elif node.outgrown and self._outgrown_first:
            rank = _OUTGROWN
        else:
            rank = _PLAIN
        if node.state_referenced:
            rank += _BRANCH + 1
        efficiency = self._saved_flops(node) / self._cost.state_bytes
        self._states.place(node, rank, node.last_use, efficiency)

    def _place_leaf(self, node: PrefixNode) -> None:
        if not node.leaf_offered:
            self._leaves.discard(node)
            return
        rank, efficiency = _STATELESS, 0.0
        if node.has_state:
            rank = _RESUMABLE
            efficiency = self._saved_flops(node) / self._leaf_bytes(node)
        if node.kv_referenced:
            rank += _RESUMABLE + 1
        self._leaves.place(node, rank, node.last_use, efficiency)

    def _state_changed(self, node: PrefixNode) -> None:
        self._stale[node] = None
        # Below, up to the next states, a hit now saves more, or less.
        below = list(node.children.values())
        while below:
            descendant = below.pop()
            if descendant.has_state:
                self._stale[descendant] = None
            else:
                below.extend(descendant.children.values())

    def _reprice_chain(self, parent: PrefixNode, child: PrefixNode) -> None:
        """``parent`` began or ceased to branch: the KV of a lone leaf under it changed."""
        if parent.has_state:
            return
        while not child.has_state and len(child.children) == 1:
            child = next(iter(child.children.values()))
        self._stale[child] = None
