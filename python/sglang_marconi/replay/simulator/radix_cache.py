"""The tree caches: states at branch points and ends, evicted by a policy of ``policy/``."""

from __future__ import annotations

from abc import abstractmethod

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.admission import PrefixMatch, branch_point
from sglang_marconi.policy.eviction import EvictionPolicy, SharedBudgetEviction
from sglang_marconi.policy.ledger import PrefixLedger, PrefixNode
from sglang_marconi.replay.requests import TraceRequest
from sglang_marconi.replay.simulator.cache import SimulatedCache
from sglang_marconi.replay.simulator.tree import RadixTree, TreeNode
from sglang_marconi.replay.tokens import Tokens


class RadixCache(SimulatedCache):
    """Serves requests as the live cache does, one at a time.

    A prompt resumes at the deepest state on its path, at the latest before its last token,
    which has to be computed. The state of a finished request stands before the last token
    it sampled, which the model has not read.
    """

    def __init__(self, cost: ModelCost, policy: PrefixLedger) -> None:
        self.cost = cost
        self.policy = policy
        self._tree = RadixTree()
        self._nodes: dict[int, TreeNode] = {}
        self._numbered = 0
        # The deepest node on the path of the request being served.
        self._held = self._tree.root
        self._locked: set[TreeNode] = set()
        self._tree.root.prefix = policy.root

    def serve(self, request: TraceRequest) -> int:
        prompt = request.prompt
        walk = self._tree.walk(prompt, len(prompt) - 1)
        resumed = next((node for node in reversed(walk.path) if node.prefix.has_state), None)
        hit = resumed.depth if resumed is not None else 0
        end = walk.path[-1] if walk.path else self._tree.root
        if walk.partial is not None:
            end = self._split(walk.partial, walk.shared)
        at = branch_point(PrefixMatch(walk.shared, hit, branches=bool(end.children)), 1)
        self._keep(request, resumed, end if at is not None else None)
        self._note_peak()
        return hit

    # ---- room ----

    @abstractmethod
    def _make_room(self, states: int, kv_bytes: int) -> bool:
        """Evict until so much is free.

        False, and nothing is evicted, where what the request holds leaves too little; false
        also where nothing more can go.
        """

    def _held_kv_bytes(self) -> int:
        return self._edge_bytes(0, self._held.depth)

    def _evict_state(self, prefix: PrefixNode) -> None:
        self.policy.drop_state(prefix)
        self.state_bytes_held -= self.cost.state_bytes
        self.evictions += 1

    def _evict_leaf(self, prefix: PrefixNode) -> None:
        leaf = self._nodes.pop(prefix.handle)
        parent = leaf.parent
        assert parent is not None
        if prefix.has_state:
            self.state_bytes_held -= self.cost.state_bytes
        self.kv_bytes_held -= self._edge_bytes(parent.depth, leaf.depth)
        self.evictions += 1
        self._tree.remove(leaf)
        self.policy.remove(prefix)
        self._offer_if_leaf(parent)

    # ---- one request ----

    def _keep(
        self, request: TraceRequest, resumed: TreeNode | None, branch: TreeNode | None
    ) -> None:
        """Store what fits of: the request's KV, the state at its end, the one at its branch."""
        sequence = request.prompt + request.reply
        end = len(request.prompt) + max(len(request.reply) - 1, 0)
        walk = self._tree.walk(sequence, end)
        known = walk.path[-1] if walk.path else self._tree.root
        self._hold(walk.partial or known, resumed)
        kv_bytes = self._edge_bytes(walk.shared, end)
        wanted = 1 if branch is None else 2
        states = next((n for n in range(wanted, -1, -1) if self._make_room(n, kv_bytes)), None)
        if states is not None:
            self.policy.tick()
            if branch is not None and states == wanted:
                self._store_state(branch)
            # The live cache inserts a prompt when its prefill ends, and its reply at the end.
            self.policy.tick()
            self.policy.tick()
            if walk.partial is not None:
                known = self._split(walk.partial, walk.shared)
            if known.depth < end:
                known = self._add(known, sequence, end)
            if states and not known.prefix.has_state:
                self._store_state(known)
        self._release()

    def _hold(self, held: TreeNode, resumed: TreeNode | None) -> None:
        self._held = held
        if not held.children and held.parent is not None:
            self.policy.withdraw_leaf(held.prefix)
        if resumed is not None:
            self.policy.use(resumed.prefix)
        self._locked = {held, resumed or held}
        for node in self._locked:
            self.policy.lock_state(node.prefix)

    def _release(self) -> None:
        held, self._held = self._held, self._tree.root
        self._offer_if_leaf(held)
        for node in self._locked:
            self.policy.unlock_state(node.prefix)
        self._locked = set()

    def _held_state_bytes(self) -> int:
        return sum(node.prefix.has_state for node in self._locked) * self.cost.state_bytes

    def _store_state(self, node: TreeNode) -> None:
        self.policy.store_state(node.prefix)
        self.state_bytes_held += self.cost.state_bytes

    # ---- the tree, and the policy's view of it ----

    def _split(self, node: TreeNode, depth: int) -> TreeNode:
        upper = self._tree.split(node, depth)
        upper.prefix = self.policy.split(node.prefix, self._number(upper), depth)
        return upper

    def _add(self, parent: TreeNode, sequence: Tokens, depth: int) -> TreeNode:
        if not parent.children and parent.parent is not None:
            self.policy.withdraw_leaf(parent.prefix)
        leaf = self._tree.add(parent, sequence, depth)
        leaf.prefix = self.policy.add(parent.prefix, self._number(leaf), depth)
        self.policy.offer_leaf(leaf.prefix)
        self.kv_bytes_held += self._edge_bytes(parent.depth, depth)
        return leaf

    def _number(self, node: TreeNode) -> int:
        self._numbered += 1
        self._nodes[self._numbered] = node
        return self._numbered

    def _offer_if_leaf(self, node: TreeNode) -> None:
        if not node.children and node.parent is not None and node is not self._held:
            self.policy.offer_leaf(node.prefix)

    def _edge_bytes(self, start: int, end: int) -> int:
        return self.cost.kv_bytes(end) - self.cost.kv_bytes(start)


class SharedBudgetCache(RadixCache):
    """States and KV in one budget; ``None``: no bound."""

    policy: SharedBudgetEviction

    def __init__(
        self, cost: ModelCost, policy: SharedBudgetEviction, total_bytes: int | None
    ) -> None:
        super().__init__(cost, policy)
        self._total = total_bytes

    def _make_room(self, states: int, kv_bytes: int) -> bool:
        if self._total is None:
            return True
        free = self._total - states * self.cost.state_bytes - kv_bytes
        if self._held_kv_bytes() + self._held_state_bytes() > free:
            return False
        while self.state_bytes_held + self.kv_bytes_held > free:
            victim = self.policy.least_useful()
            if victim is None:
                return False
            if victim.leaf_offered:
                self._evict_leaf(victim)
            else:
                self._evict_state(victim)
        return True


class TwoPoolCache(RadixCache):
    """A pool of state slots and a pool of KV, which cannot lend to each other."""

    policy: EvictionPolicy

    def __init__(
        self, cost: ModelCost, policy: EvictionPolicy, *, state_bytes: int, kv_bytes: int
    ) -> None:
        super().__init__(cost, policy)
        self._state_pool = state_bytes
        self._kv_pool = kv_bytes

    def _make_room(self, states: int, kv_bytes: int) -> bool:
        needed = self._held_state_bytes() + states * self.cost.state_bytes
        if needed > self._state_pool or self._held_kv_bytes() + kv_bytes > self._kv_pool:
            return False
        while self.kv_bytes_held + kv_bytes > self._kv_pool:
            leaf = self.policy.least_useful_leaf()
            if leaf is None:
                return False
            self._evict_leaf(leaf)
        while self.state_bytes_held + states * self.cost.state_bytes > self._state_pool:
            state = self.policy.least_useful_state()
            if state is None:
                return False
            self._evict_state(state)
        return True
