"""A driver of SGLang's tree that compares each step with what must be held and may go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sglang.srt.managers.schedule_batch import Req
from sglang.srt.mem_cache.base_prefix_cache import EvictResult, MatchResult, TreeLock
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.policy.eviction import EvictionPolicy

from support.tree_expected import Expected
from support.tree_serving import Flight, Serving
from support.watched_tree import FULL, MAMBA, Tokens


class CheckedServing(Serving):
    """Does every step on the dicts, too, and compares what comes of it."""

    def __init__(self, cfg: CacheConfig, expected: Expected) -> None:
        super().__init__(cfg, EvictionPolicy(expected.cost, expected.valuation()))
        self.expected = expected

    # ---- evictions ----

    def replay_evictions(self) -> tuple[list[int], int]:
        """Check one after the other what went; KV slots freed by each leaf, and states."""
        leaves, states = [], 0
        for what in self.tree.evicted:
            rows = self.expected.leaves() if what.leaf else self.expected.states()
            self.expected.assert_least_useful(what.prefix, rows)
            states += self.expected.nodes[what.prefix].slot is not None
            freed = self.expected.evict(what)
            if what.leaf:
                leaves.append(freed)
        self.tree.evicted.clear()
        return leaves, states

    def evict(self, *, tokens: int = 0, states: int = 0) -> EvictResult:
        result = super().evict(tokens=tokens, states=states)
        alone = sum(not what.leaf for what in self.tree.evicted)
        leaves, freed_states = self.replay_evictions()
        assert (sum(leaves), freed_states) == (
            result.num_tokens_evicted,
            result.mamba_num_evicted,
        )
        # Leaf by leaf until it is enough, or none is left.
        assert sum(leaves[:-1]) < tokens or not leaves
        assert sum(leaves) >= tokens or not self.expected.leaves()
        # States on their own only beyond those that went with leaves, and just as many as asked.
        with_leaves = freed_states - alone
        assert freed_states == max(states, with_leaves) or not self.expected.states()
        assert freed_states <= max(states, with_leaves)
        return result

    def replay_one_state(self) -> None:
        """The step before this may have had to evict a state for a slot."""
        leaves, states = self.replay_evictions()
        assert not leaves and states <= 1

    # ---- the tree ----

    def match(self, tokens: Sequence[int], req: Req | None = None) -> MatchResult:
        short = req is not None and self.states.available_size() == 0
        result = super().match(tokens, req)
        best, shared, branch = self.expected.match(tokens)
        assert (
            result.device_prefix_len,
            result.full_kv_hit_length,
            result.mamba_branching_seqlen,
        ) == (len(best), len(shared), branch)
        path = self.cache.path_device_indices(result.last_device_node)
        assert path.tolist() == self.expected.slots(best, whole=True)
        # Room for the copy of a state is made without that state.
        self.expected.locks.append((best, True))
        assert len(self.tree.evicted) == (short and bool(best))
        self.replay_one_state()
        self.expected.locks.remove((best, True))
        return result

    def insert(self, tokens: Sequence[int], slots: Any, state: Any | None) -> bool:
        had_it = super().insert(tokens, slots, state)
        expected = self.expected.insert(
            tokens, slots.tolist(), None if state is None else int(state)
        )
        assert had_it == expected
        return had_it

    def lock(self, node_id: int, *, state: bool = True) -> TreeLock:
        self.expected.locks.append((self.tree.tokens(self.tree.node_by_id(node_id)), state))
        return super().lock(node_id, state=state)

    def unlock(self, lock: TreeLock) -> None:
        state = MAMBA not in lock.receipt.skipped_lock_components
        self.expected.locks.remove((self.tree.tokens(self.tree.node_by_id(lock.node)), state))
        super().unlock(lock)

    # ---- requests ----

    def use(self, req: Req) -> None:
        super().use(req)
        resumed = self.tree.tokens(self.tree.node_by_id(req.last_node))
        if resumed:
            self.expected.use(resumed)

    def chunk(self, flight: Flight, up_to: int) -> None:
        branch = flight.branch
        passes = branch is not None and branch <= up_to
        takes = passes and self.spares_a_slot()
        locked, row = self.locked(flight), self.row(flight)
        free, evictable = self.states.available_size(), bool(self.expected.states())
        if takes and not free:
            takes = self.admits(flight)
        super().chunk(flight, up_to)
        assert len(self.tree.evicted) == (takes and not free and evictable)
        self.replay_one_state()
        taken = takes and (free or evictable)
        # Up to its last state, what a chunk computed enters the tree; all of it at a prompt's end.
        whole = up_to if flight.prefilled else branch if taken else None
        if whole is None:
            return
        inserted = self.expected.whole(flight.prompt[:whole])
        self.expected.insert(inserted, row, None)
        if taken:
            assert branch is not None
            at = self.expected.whole(flight.prompt[:branch])
            value = self.tree.node_of(at).component_data[MAMBA].value
            self.expected.insert(at, row, int(value))
        self.expected.locks.remove((locked, True))
        self.expected.locks.append((inserted, True))

    def admits(self, flight: Flight) -> bool:
        """Whether the branch is worth what has to go for it, which prediction may deny."""
        assert flight.branch is not None
        above = flight.req.kv.cache_protected_len
        return self.tree.policy.admits_inside(above, flight.branch)

    def spares_a_slot(self) -> bool:
        """Whether requests that may still start would have a slot to compute in, and another."""
        each = 2 + self.tracking_slots
        left = self.states.available_size() + len(self.expected.states())
        return bool(left > each * (self.cfg.max_num_reqs - len(self.flights)))

    def finish(
        self,
        flight: Flight,
        *,
        unwanted: int = 0,
        tracked: int | None = None,
        tracked_before: int | None = None,
    ) -> None:
        tokens, locked, row = flight.tokens, self.locked(flight), self.row(flight)
        up_to = len(tokens) - unwanted
        at, state = up_to, self.live_slot(flight)
        if unwanted or up_to % self.cfg.page_size:
            at, state = self.tracked_state(flight, up_to, tracked, tracked_before)
        in_tree = flight.req.kv.cache_protected_len
        super().finish(flight, unwanted=unwanted, tracked=tracked, tracked_before=tracked_before)
        assert not self.tree.evicted
        if at:
            self.expected.insert(tokens[:at], row, state)
        # A state above what is in the tree already does not end what is inserted.
        if at < in_tree or not at:
            self.expected.insert(tokens[:up_to], row, None)
        self.expected.locks.remove((locked, True))

    def tracked_state(
        self, flight: Flight, up_to: int, tracked: int | None, tracked_before: int | None
    ) -> tuple[int, int | None]:
        """The newest tracked state that is not past ``up_to``, as its prefix length and slot."""
        if self.tracking_slots:
            slots = flight.req.kv.mamba_ping_pong_track_buffer.tolist()
            lengths = [at for at in (tracked_before, tracked) if at is not None]
            # The first one goes into the first slot, the second into the other.
            usable = [kept for kept in zip(lengths, slots, strict=False) if kept[0] <= up_to]
            return max(usable, default=(0, None))
        return 0, None

    def abort(self, flight: Flight) -> None:
        self.expected.locks.remove((self.locked(flight), True))
        super().abort(flight)

    def flush(self) -> None:
        super().flush()
        assert not self.tree.evicted
        self.expected.clear()

    def row(self, flight: Flight) -> list[int]:
        """The KV slots of a request's tokens, the tree's among them."""
        kv = flight.req.kv
        return self.pool.req_to_token[kv.req_pool_idx, : kv.kv_allocated_len].tolist()

    def live_slot(self, flight: Flight) -> int:
        return int(flight.req.kv.mamba_pool_idx)

    def locked(self, flight: Flight) -> Tokens:
        return self.tree.tokens(self.tree.node_by_id(flight.req.lock.node))

    # ---- comparison ----

    def check(self) -> None:
        """The tree is sound and holds what it must, and every slot has one owner."""
        self.cache.sanity_check()
        self.check_tree()
        self.check_slots()

    def check_tree(self) -> None:
        expected = self.expected
        found = {}
        for node in self.tree._collect_all_nodes():
            if node is not self.tree.root_node:
                state = node.component_data[MAMBA].value
                slots = node.component_data[FULL].value.tolist()
                found[self.tree.tokens(node)] = (slots, None if state is None else state.tolist())
        assert found == {
            prefix: (expected.slots(prefix), None if node.slot is None else [node.slot])
            for prefix, node in expected.nodes.items()
        }

    def check_slots(self) -> None:
        expected = self.expected
        held_kv, held_states = [], []
        for flight in self.flights:
            kv = flight.req.kv
            held_kv += self.row(flight)[kv.cache_protected_len :]
            held_states.append(self.live_slot(flight))
            if self.tracking_slots:
                held_states += kv.mamba_ping_pong_track_buffer.tolist()
        tree_kv = [slot for page in expected.kv.values() for slot in page]
        tree_states = [node.slot for node in expected.nodes.values() if node.slot is not None]
        for free, in_tree, held, size in (
            (self.kv.free_pages, tree_kv, held_kv, self.cfg.kv_size),
            (self.states.free_slots, tree_states, held_states, self.cfg.mamba_cache_size),
        ):
            slots = [*free.tolist(), *in_tree, *held]
            assert sorted(slots) == list(range(1, size + 1))
        locked_kv = self.cfg.page_size * sum(map(expected.holds_kv, expected.kv))
        assert self.cache.full_protected_size() == locked_kv
        assert self.cache.full_evictable_size() == len(tree_kv) - locked_kv
        assert self.cache.mamba_evictable_size() == len(expected.states())
        assert self.cache.mamba_protected_size() == len(tree_states) - len(expected.states())
