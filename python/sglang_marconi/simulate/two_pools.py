"""States and KV in a pool each, used step by step as the live cache does."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.simulate.arrivals import Admitted
from sglang_marconi.simulate.radix_cache import Match, RadixCache
from sglang_marconi.simulate.tree import TreeNode
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens


class TwoPoolCache(RadixCache):
    """A pool of state slots and a pool of KV, which cannot lend to each other.

    A request takes a slot when it is admitted, then KV for the rest of its prompt and a slot for
    the state at its branch point, which one pass fills; then KV for its reply. What it computes
    again of what the tree holds takes KV too, until it is inserted. It keeps in use what it
    resumed from, then what it inserted last.

    With ``store`` the pool of states is for checkpoints alone: a request takes nothing of it but
    for those that it leaves, when it leaves them.
    """

    policy: EvictionPolicy

    def __init__(
        self,
        cost: ModelCost,
        policy: EvictionPolicy,
        *,
        state_bytes: int,
        kv_bytes: int,
        store: bool = False,
    ) -> None:
        super().__init__(cost, policy)
        self._state_pool = state_bytes
        self._kv_pool = kv_bytes
        self._store = store
        # What the running request has taken beside the tree.
        self._own_state_bytes = 0
        self._own_kv_bytes = 0

    def _finish(self, admitted: Admitted, match: Match) -> None:
        self._hold(match.resumed or self._tree.root)
        if self._store or self._take_state():
            self._run(admitted.request, match.hit, match.inside(admitted.places))
        self._own_state_bytes = self._own_kv_bytes = 0

    def _run(self, request: TraceRequest, hit: int, inside: Sequence[int]) -> None:
        """A request that finds no room for its KV ends there, as one that was aborted."""
        sequence = request.prompt + request.reply
        prompt = len(request.prompt)
        if not self._take_kv(hit, prompt):
            return
        taken: list[int] = []
        for depth in inside:
            if self._take_state_for_branch(taken[-1] if taken else hit, depth):
                taken.append(depth)
        self._hold(self._enter(sequence, prompt))
        for depth in taken:
            self._own_state_bytes -= self._new_state_bytes
            self._leave_inside(self._enter(sequence, depth))
        end = prompt + max(len(request.reply) - 1, 0)
        if self._take_kv(prompt, end):
            stored = not self._store or self._take_state()
            node = self._enter(sequence, end)
            if stored:
                self._own_state_bytes -= self._new_state_bytes
                self._store_state(node)

    def _enter(self, sequence: Tokens, depth: int) -> TreeNode:
        """Insert what was computed: its KV is the tree's, or a duplicate and given back."""
        self._own_kv_bytes = 0
        return self._insert(sequence, depth)

    def _take_state_for_branch(self, above: int, depth: int) -> bool:
        if self._has_room() or self.policy.admits_branch(above, depth):
            return self._take_state()
        return False

    def _has_room(self) -> bool:
        taken = self.state_bytes_held + self._own_state_bytes
        return taken + self._new_state_bytes <= self._state_pool

    def _take_state(self) -> bool:
        """Take room for a state, evicting for it; false where all are in use."""
        while not self._has_room():
            victim = self.policy.least_useful_state()
            if victim is None:
                return False
            self._give_way(victim)
        self._own_state_bytes += self._new_state_bytes
        return True

    def _take_kv(self, start: int, end: int) -> bool:
        """Take KV for tokens ``[start, end)``, evicting for it; false where none is left."""
        self._own_kv_bytes += self._edge_bytes(start, end)
        while self.kv_bytes_held + self._own_kv_bytes > self._kv_pool:
            leaf = self.policy.least_useful_leaf()
            if leaf is None:
                return False
            self._evict_leaf(leaf)
        return True
