"""States and KV in a pool each, used step by step as the live cache does."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.choice import Place, Prospect
from sglang_marconi.policy.eviction import EvictionPolicy
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

    def _finish(self, request: TraceRequest, match: Match) -> None:
        self._hold(match.resumed or self._tree.root)
        if self._store or self._take_state():
            self._run(request, match)
        self._own_state_bytes = self._own_kv_bytes = 0

    def _run(self, request: TraceRequest, match: Match) -> None:
        """A request that finds no room for its KV ends there, as one that was aborted."""
        sequence = request.prompt + request.reply
        prompt = len(request.prompt)
        if not self._take_kv(match.hit, prompt):
            return
        taken = self._take_states_inside(match.hit, match.inside)
        self._hold(self._enter(sequence, prompt))
        for each in taken:
            self._own_state_bytes -= self._new_state_bytes
            self._leave_inside(self._enter(sequence, each.tokens), each)
        end = prompt + max(len(request.reply) - 1, 0)
        if self._take_kv(prompt, end):
            chance = self._chance_of_end(match.trail, sequence, end)
            stored = not self._store or self._take_state()
            node = self._enter(sequence, end)
            if stored:
                self._own_state_bytes -= self._new_state_bytes
                self._store_state(node, Place.END, chance)

    def _enter(self, sequence: Tokens, depth: int) -> TreeNode:
        """Insert what was computed: its KV is the tree's, or a duplicate and given back."""
        self._own_kv_bytes = 0
        return self._insert(sequence, depth)

    def _take_states_inside(self, hit: int, inside: Sequence[Prospect]) -> list[Prospect]:
        """Room for states inside a prompt, for those that save most first; in order."""
        above = [hit, *(each.tokens for each in inside)]
        gains = {
            each: each.chance * self.cost.prefill_flops(start, each.tokens)
            for start, each in zip(above, inside, strict=False)
        }
        taken = []
        for start, each in sorted(
            zip(above, inside, strict=False), key=lambda pair: (-gains[pair[1]], pair[1])
        ):
            admits = self._has_room() or self.policy.admits_inside(start, *each)
            if admits and self._take_state():
                taken.append(each)
        return sorted(taken)

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
