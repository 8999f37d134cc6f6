"""States and KV in one budget, as the paper's evaluation has them."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.choice import Place, Prospect
from sglang_marconi.policy.eviction import SharedBudgetEviction
from sglang_marconi.simulate.radix_cache import Match, RadixCache
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens


class SharedBudgetCache(RadixCache):
    """Makes room for all that a request leaves before it stores any of it.

    Nothing on the request's own path loses its KV for that. ``total_bytes`` of ``None``: no
    bound.
    """

    policy: SharedBudgetEviction

    def __init__(
        self, cost: ModelCost, policy: SharedBudgetEviction, total_bytes: int | None
    ) -> None:
        super().__init__(cost, policy)
        self._total = total_bytes

    def _finish(self, request: TraceRequest, match: Match) -> None:
        sequence = request.prompt + request.reply
        end = len(request.prompt) + max(len(request.reply) - 1, 0)
        walk = self._tree.walk(sequence, end)
        known = self._entered(walk)
        self._hold(known, *([match.resumed] if match.resumed is not None else []))
        kv_bytes = self._edge_bytes(walk.shared, end)
        inside = match.inside
        chance = self._chance_of_end(match.trail, sequence, end)
        keeps_end = True
        if self._is_short(1 + len(inside), kv_bytes):
            inside = self._worth_their_room(match.hit, inside)
            # The end of a conversation takes the place of its last one.
            if match.resumed is None or match.resumed.prefix.branched:
                above = inside[-1].tokens if inside else match.hit
                keeps_end = self.policy.admits_end(above, end, kv_bytes, chance)
        if keeps_end:
            self._keep(sequence, end, kv_bytes, inside, chance)
        elif inside:
            self._keep_inside(sequence, walk.shared, inside)

    def _worth_their_room(self, above: int, inside: Sequence[Prospect]) -> list[Prospect]:
        """Those places that are worth what has to go for a state there."""
        worth = []
        for each in inside:
            if self.policy.admits_inside(above, *each):
                worth.append(each)
                above = each.tokens
        return worth

    def _keep(
        self,
        sequence: Tokens,
        end: int,
        kv_bytes: int,
        inside: Sequence[Prospect],
        chance: float,
    ) -> None:
        """Store what fits of: the request's KV, the state at its end, those inside its prompt."""
        wanted = 1 + len(inside)
        states = next((n for n in range(wanted, -1, -1) if self._make_room(n, kv_bytes)), None)
        if states is None:
            return
        self._store_inside(sequence, inside, states - 1)
        # The live cache inserts a prompt when its prefill ends, and its reply at the end.
        self.policy.tick()
        node = self._insert(sequence, end)
        if states:
            self._store_state(node, Place.END, chance)

    def _keep_inside(self, sequence: Tokens, shared: int, inside: Sequence[Prospect]) -> None:
        """The same without the end: KV goes as far as the last state."""
        last = inside[-1].tokens
        kv_bytes = self._edge_bytes(min(shared, last), last)
        for states in range(len(inside), 0, -1):
            if self._make_room(states, kv_bytes):
                self._store_inside(sequence, inside, states)
                return

    def _store_inside(self, sequence: Tokens, inside: Sequence[Prospect], most: int) -> None:
        """Of the most certain places those that save most, the deepest."""
        certain = sorted(inside, key=lambda each: (each.place.is_guess, -each.chance, -each.tokens))
        for each in sorted(certain[: max(most, 0)]):
            self._leave_inside(self._insert(sequence, each.tokens), each)

    def _is_short(self, states: int, kv_bytes: int) -> bool:
        """Whether so much is not free."""
        held = self.state_bytes_held + self.kv_bytes_held
        wanted = states * self._new_state_bytes + kv_bytes
        return self._total is not None and held + wanted > self._total

    def _make_room(self, states: int, kv_bytes: int) -> bool:
        """Evict until so much is free.

        False, and nothing is evicted, where what the request holds leaves too little; false
        also where nothing more can go.
        """
        if self._total is None:
            return True
        free = self._total - states * self._new_state_bytes - kv_bytes
        held = self._edge_bytes(0, self._held.depth) + sum(
            self._state_bytes(node.prefix) for node in self._locked if node.prefix.has_state
        )
        if held > free:
            return False
        while self.state_bytes_held + self.kv_bytes_held > free:
            victim = self.policy.least_useful()
            if victim is None:
                return False
            # A state is demoted before it goes, a leaf goes with its KV.
            demotes = victim.has_state and self.policy.demotion(victim) is not None
            if victim.leaf_offered and not demotes:
                self._evict_leaf(victim)
            else:
                self._give_way(victim)
        return True
