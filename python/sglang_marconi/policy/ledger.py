"""The policy's own view of a cached tree, kept up to date by what the tree's owner reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import floor

from sglang_marconi.policy.choice import Place
from sglang_marconi.policy.prospects import Trail

# One use after another within one tick of the clock: keeps their order, and no more.
_INSTANT = 2.0**-20


class PrefixNode:
    """A node of the cached tree: the prefix of ``depth`` tokens that ends there.

    ``handle`` is the owner's number for it. All else is the policy's.
    """

    __slots__ = (
        "awaited",
        "branched",
        "chance",
        "children",
        "depth",
        "form",
        "handle",
        "has_state",
        "hits",
        "kv_referenced",
        "last_use",
        "leaf_offered",
        "offshoot",
        "parent",
        "place",
        "running_below",
        "state_in_use",
        "state_referenced",
        "trail",
    )

    def __init__(self, handle: int, parent: PrefixNode | None, depth: int, now: float) -> None:
        self.handle = handle
        self.parent = parent
        self.depth = depth
        self.last_use = now
        self.children: dict[int, PrefixNode] = {}
        self.has_state = False
        # Of the ways to hold its state, the number of the present one; 0 is exact.
        self.form = 0
        self.state_in_use = False
        self.running_below = 0
        self.state_referenced = False
        self.leaf_offered = False
        self.kv_referenced = False
        # How many requests wait that are about to resume there.
        self.awaited = 0
        # It has had several children; how often its state was used; its request left a branch
        # point above it that nobody has used.
        self.branched = False
        self.hits = 0
        self.offshoot = False
        # What its state is kept for, and how likely it seemed that it will be used: from 0 to 1
        # for a guess, for an end in parts of what is usual.
        self.place = Place.END
        self.chance = 1.0
        # The request that added it.
        self.trail: Trail | None = None


class PrefixLedger(ABC):
    """Keeps count of a cached tree: shape, states, uses, locks.

    It notes which nodes a change concerns; ``_settle`` has a subclass look at each of them
    once (``_place``), however often it changed, before it answers.
    """

    def clear(self) -> None:
        """Forget everything; ``root`` is new."""
        self._now = 0.0
        # Whose request adds to the tree.
        self.trail: Trail | None = None
        self.root = PrefixNode(-1, None, 0, self._now)
        # States that have gone though requests waited for their use.
        self.awaited_gone = 0
        # Nodes that a change concerned since the last answer; in order of report,
        # so that it is the same in every process.
        self._stale: dict[PrefixNode, None] = {}

    @property
    def ticks(self) -> int:
        """Insertions so far."""
        return floor(self._now)

    def age(self, node: PrefixNode) -> int:
        """Insertions since ``node``'s last use."""
        return floor(self._now) - floor(node.last_use)

    def nodes(self) -> Iterator[PrefixNode]:
        """All nodes but the root; those above first."""
        nodes = list(self.root.children.values())
        for node in nodes:
            yield node
            nodes.extend(node.children.values())

    def is_settled(self, node: PrefixNode) -> bool:
        """Whether no change has concerned ``node`` since it was last placed."""
        return node not in self._stale

    # ---- what happens to the tree ----

    def tick(self) -> None:
        """Time passes: once for each insertion, so that it does not depend on the machine."""
        self._now = floor(self._now) + 1.0

    def add(self, parent: PrefixNode, handle: int, depth: int) -> PrefixNode:
        """A new leaf below ``parent``, without a state; its prefix has ``depth`` tokens."""
        node = PrefixNode(handle, parent, depth, self._now)
        node.trail = self.trail
        siblings = parent.children
        siblings[handle] = node
        if len(siblings) > 2:
            return node
        if parent.has_state:
            self._stale[parent] = None
        if len(siblings) > 1:
            parent.branched = True
            self._reprice_chain(parent, next(iter(siblings.values())))
        return node

    def split(self, child: PrefixNode, handle: int, depth: int) -> PrefixNode:
        """A new node, without a state, between ``child`` and its parent."""
        parent = child.parent
        assert parent is not None
        upper = PrefixNode(handle, parent, depth, child.last_use)
        upper.trail = child.trail
        upper.running_below = child.running_below + child.state_in_use
        del parent.children[child.handle]
        parent.children[handle] = upper
        upper.children[child.handle] = child
        child.parent = upper
        return upper

    def remove(self, node: PrefixNode) -> None:
        """A leaf has left the tree."""
        self._stale.pop(node, None)
        self._forget(node)
        parent = node.parent
        assert parent is not None
        siblings = parent.children
        del siblings[node.handle]
        if len(siblings) > 1:
            return
        if parent.has_state:
            self._stale[parent] = None
        if siblings:
            self._reprice_chain(parent, next(iter(siblings.values())))

    def store_state(self, node: PrefixNode) -> None:
        """``node`` has a state now; storing it is a use."""
        node.has_state, node.form, node.hits = True, 0, 0
        node.place, node.chance = Place.END, 1.0
        node.offshoot = not node.branched and _below_new_branch(node)
        self._stamp(node)
        self._state_changed(node)

    def keep_for(self, node: PrefixNode, place: Place, chance: float) -> None:
        """What ``node``'s new state is kept for, and how likely it seems that it will be used."""
        node.place, node.chance = place, chance
        self._stale[node] = None

    def drop_state(self, node: PrefixNode) -> None:
        """``node`` has no state any more."""
        node.has_state = False
        self.awaited_gone += node.awaited > 0
        self._state_changed(node)

    def set_form(self, node: PrefixNode, form: int) -> None:
        """``node``'s state is held in another way now, by its number."""
        node.form = form
        self._stale[node] = None

    def use(self, node: PrefixNode) -> None:
        """A prompt was found to start with ``node``'s prefix, and may resume there."""
        # Within one tick it is the request itself that comes back to what it has stored.
        node.hits += floor(self._now) > floor(node.last_use)
        self._stamp(node)
        self._stale[node] = None

    def lock_state(self, node: PrefixNode) -> None:
        """Requests run from ``node``: a state there is in use until it is unlocked."""
        if not node.state_in_use:
            node.state_in_use = True
            self._count_running(node, 1)

    def unlock_state(self, node: PrefixNode) -> None:
        """No request runs from ``node`` any more."""
        if node.state_in_use:
            node.state_in_use = False
            self._count_running(node, -1)

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

    def await_state(self, node: PrefixNode, change: int) -> None:
        """So many more requests wait that are about to resume at ``node``, or fewer."""
        node.awaited += change
        if node.has_state:
            self._stale[node] = None

    # ---- for subclasses ----

    @abstractmethod
    def _place(self, node: PrefixNode) -> None:
        """Something about ``node`` has changed: what it is a candidate for, or what it is worth."""

    @abstractmethod
    def _forget(self, node: PrefixNode) -> None:
        """``node`` is gone."""

    def _settle(self) -> None:
        for node in self._stale:
            self._place(node)
        self._stale.clear()

    def _notice_all(self) -> None:
        """Look at every node again; those above first."""
        self._stale.update(dict.fromkeys(self.nodes()))

    def _stamp(self, node: PrefixNode) -> None:
        self._now += _INSTANT
        node.last_use = self._now

    def _count_running(self, node: PrefixNode, change: int) -> None:
        self._stale[node] = None
        above = node.parent
        while above is not None:
            above.running_below += change
            if above.has_state:
                self._stale[above] = None
            above = above.parent

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


def _below_new_branch(node: PrefixNode) -> bool:
    """Whether a request that ends at ``node`` left a branch point that nobody has used yet."""
    above = node.parent
    while above is not None and not above.has_state and not above.branched:
        above = above.parent
    if above is None:
        return False
    return above.has_state and above.hits == 0 if above.branched else above.offshoot
