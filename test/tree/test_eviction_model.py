"""Any use of SGLang's tree and pools, against dicts of what they must hold and may evict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.mem_cache.base_prefix_cache import EvictResult, MatchResult, TreeLock
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cost import ModelCost, preset
from sglang_marconi.policy.eviction import EvictionPolicy
from support.tree_expected import Expected
from support.tree_serving import (
    FULL,
    MAMBA,
    PAGES_OF_FOUR,
    SINGLE_TOKENS,
    Flight,
    Serving,
    Tokens,
    with_free_passes,
)

_PAPER = with_free_passes(preset("paper-7b"))
# The second makes a token's KV count as much as a state.
_COSTS = (_PAPER, _PAPER.with_pool_bytes(state_bytes=1, kv_bytes_per_token=1))
_MORE_THAN_THERE_IS = 1000


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

    def chunk(self, flight: Flight, up_to: int) -> None:
        at_branch = up_to == flight.req.mamba_branching_seqlen
        locked, row, live = self.locked(flight), self.row(flight), self.live_slot(flight)
        free, evictable = self.states.available_size(), bool(self.expected.states())
        super().chunk(flight, up_to)
        assert len(self.tree.evicted) == (at_branch and not free and evictable)
        self.replay_one_state()
        if not at_branch and not flight.prefilled:
            return
        # Who leaves its state goes on in another slot; without one, no state is left.
        state = live if at_branch and (free or evictable) else None
        inserted = self.expected.whole(flight.prompt[:up_to])
        had_it = self.expected.insert(inserted, row, state)
        assert (self.live_slot(flight) != live) == (state is not None and not had_it)
        self.expected.locks.remove((locked, True))
        self.expected.locks.append((inserted, True))

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


picks = st.integers(0, 9)
sequences = st.tuples(
    picks, st.integers(0, 10), st.lists(st.integers(1, 2), max_size=5), st.integers(0, 3)
)
amounts = st.sampled_from([1, 1, 1, 2, 3, 5, _MORE_THAN_THERE_IS])

# A sequence seen before, how many of its pages to keep, the pages and torn tokens that follow.
Sequence_ = tuple[int, int, list[int], int]


class TreeMachine(RuleBasedStateMachine):
    """Any steps of a scheduler; after each, everything is compared."""

    cfg: ClassVar[CacheConfig]
    predicted: ClassVar[bool] = False

    @initialize(
        cost=st.sampled_from(_COSTS),
        alpha=st.sampled_from([0.0, 0.5, 2.0]),
        first=st.lists(st.tuples(sequences, st.booleans()), max_size=6),
    )
    def start(
        self,
        cost: ModelCost,
        alpha: float,
        first: list[tuple[Sequence_, bool]],
    ) -> None:
        expected = Expected(self.cfg.page_size, cost, alpha=None if self.predicted else alpha)
        self.serving = CheckedServing(self.cfg, expected)
        self.seen: list[list[int]] = []
        for sequence, state in first:
            self.put(sequence, state)

    def tokens(self, sequence: Sequence_) -> list[int]:
        pick, keep, pages, torn = sequence
        page = self.cfg.page_size
        tokens = list(self.seen[pick % len(self.seen)][: keep * page]) if self.seen else []
        for last in pages:
            tokens += [1] * (page - 1) + [last]
        tokens = [*tokens, *[1] * (torn % page)][: 10 * page] or [1] * page
        self.seen.append(tokens)
        return tokens

    def flight(self, pick: int) -> Flight:
        return self.serving.flights[pick % len(self.serving.flights)]

    # ---- the tree ----

    @rule(sequence=sequences)
    def match(self, sequence: Sequence_) -> None:
        self.serving.match(self.tokens(sequence))

    @rule(sequence=sequences, state=st.booleans())
    def put(self, sequence: Sequence_, state: bool) -> None:
        self.serving.put(self.tokens(sequence), state=state)

    @rule(sequence=sequences, state=st.booleans())
    def hold(self, sequence: Sequence_, state: bool) -> None:
        self.serving.hold(self.tokens(sequence), state=state)

    @precondition(lambda self: self.serving.locks)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        locks = self.serving.locks
        self.serving.unlock(locks.pop(pick % len(locks)))

    @rule(states=amounts)
    def evict_states(self, states: int) -> None:
        self.serving.evict(states=states)

    @rule(tokens=amounts)
    def evict_kv(self, tokens: int) -> None:
        self.serving.evict(tokens=tokens)

    @rule(tokens=amounts, states=amounts)
    def evict_both(self, tokens: int, states: int) -> None:
        self.serving.evict(tokens=tokens, states=states)

    # ---- requests ----

    @rule(sequence=sequences, evict_in_match=st.booleans())
    def begin(self, sequence: Sequence_, evict_in_match: bool) -> None:
        self.serving.begin(self.tokens(sequence), evict_in_match=evict_in_match)

    @precondition(lambda self: any(not flight.prefilled for flight in self.serving.flights))
    @rule(pick=picks, to_branch=st.booleans(), short=st.integers(0, 3))
    def prefill(self, pick: int, to_branch: bool, short: int) -> None:
        """A chunk to the branch point, or to the prompt's end, or to short of that."""
        flights = [flight for flight in self.serving.flights if not flight.prefilled]
        flight = flights[pick % len(flights)]
        branch, done = flight.branch, flight.req.kv.cache_protected_len
        if to_branch and branch is not None:
            self.serving.chunk(flight, branch)
        elif done < len(flight.prompt) - short != branch:
            self.serving.chunk(flight, len(flight.prompt) - short)

    @precondition(lambda self: self.serving.flights)
    @rule(pick=picks, reply=st.lists(st.integers(1, 2), min_size=1, max_size=9))
    def decode(self, pick: int, reply: list[int]) -> None:
        self.serving.decode(self.flight(pick), reply)

    @precondition(lambda self: self.serving.flights)
    @rule(pick=picks, unwanted=st.integers(0, 1), pages=st.none() | st.integers(1, 12))
    def finish(self, pick: int, unwanted: int, pages: int | None) -> None:
        self.end(self.flight(pick), unwanted, pages)

    def end(self, flight: Flight, unwanted: int, pages: int | None) -> None:
        """The request ends; the last states tracked are ``pages`` pages long and one less."""
        page = self.cfg.page_size
        unwanted = min(unwanted, len(flight.reply))
        tracked = None
        if pages is not None:
            tracked = min(pages, len(flight.tokens) // page) * page or None
        before = tracked - page if tracked else None
        self.serving.finish(
            flight, unwanted=unwanted, tracked=tracked, tracked_before=before or None
        )
        self.seen.append(flight.tokens[: 10 * page])

    @precondition(lambda self: self.serving.flights)
    @rule(pick=picks)
    def abort(self, pick: int) -> None:
        self.serving.abort(self.flight(pick))

    @rule(
        sequence=sequences,
        to_branch=st.booleans(),
        to_end=st.booleans(),
        reply=st.lists(st.integers(1, 2), max_size=9),
        pages=st.none() | st.integers(1, 12),
    )
    def request(
        self,
        sequence: Sequence_,
        to_branch: bool,
        to_end: bool,
        reply: list[int],
        pages: int | None,
    ) -> None:
        """A whole request at once."""
        self.ask(self.tokens(sequence), to_branch, to_end, reply, pages)

    @rule(sequence=sequences, turns=st.lists(st.integers(1, 2), min_size=2, max_size=4))
    def converse(self, sequence: Sequence_, turns: list[int]) -> None:
        """Some requests, each of which goes on where the one before it ended."""
        page = self.cfg.page_size
        tokens = self.tokens(sequence)
        for turn in turns:
            tokens = tokens[: 10 * page] + [1] * (page - 1) + [turn]
            self.ask(tokens, to_branch=True, to_end=True, reply=[turn], pages=None)
            tokens = [*tokens, turn]

    def ask(
        self,
        prompt: list[int],
        to_branch: bool,
        to_end: bool,
        reply: list[int],
        pages: int | None,
    ) -> None:
        flight = self.serving.begin(prompt)
        if flight is None:
            return
        if to_branch and flight.branch is not None:
            self.serving.chunk(flight, flight.branch)
        if to_end:
            self.serving.chunk(flight, len(flight.prompt))
        self.serving.decode(flight, reply)
        self.end(flight, 0, pages)

    @precondition(lambda self: len(self.serving.expected.nodes) > 5)
    @rule()
    def flush(self) -> None:
        self.serving.flush()

    # ---- after each step ----

    @invariant()
    def check(self) -> None:
        if hasattr(self, "serving"):
            self.serving.check()

    def teardown(self) -> None:
        """What was inserted matches as the dicts say, and all of it goes, one by one."""
        serving = self.serving
        # A match is a use, so some go before it.
        for _ in range(serving.cache.mamba_evictable_size() // 2):
            serving.evict(states=1)
        for tokens in self.seen:
            serving.match(tokens)
        serving.check()
        for flight in list(serving.flights):
            serving.abort(flight)
        while serving.locks:
            serving.unlock(serving.locks.pop())
        while serving.cache.mamba_evictable_size() > 2:
            serving.evict(states=1)
        while serving.cache.full_evictable_size():
            serving.evict(tokens=1)
        serving.check()
        assert serving.kv.available_size() == self.cfg.kv_size
        assert serving.states.available_size() == self.cfg.mamba_cache_size


class SingleTokensMachine(TreeMachine):
    cfg = SINGLE_TOKENS


class PagesMachine(TreeMachine):
    cfg = PAGES_OF_FOUR


class PredictedReuseMachine(TreeMachine):
    """What goes is not foretold, but all that follows from it is."""

    cfg = PAGES_OF_FOUR
    predicted = True


_MACHINE = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestSingleTokens = SingleTokensMachine.TestCase
TestSingleTokens.settings = _MACHINE
TestPages = PagesMachine.TestCase
TestPages.settings = _MACHINE
TestPredictedReuse = PredictedReuseMachine.TestCase
TestPredictedReuse.settings = settings(_MACHINE, max_examples=50)


def test_a_branch_goes_without_a_state_where_all_slots_are_in_use() -> None:
    serving = CheckedServing(SINGLE_TOKENS, Expected(1, _PAPER, alpha=1.0))
    serving.put([1, 1], state=False)
    flight = serving.begin([1, 2])
    assert flight is not None
    assert flight.branch == 1
    for last in range(3, 3 + serving.states.available_size()):
        serving.put([last], state=True)
        serving.hold([last], state=True)
    serving.check()
    serving.chunk(flight, 1)
    serving.check()
    assert serving.expected.nodes[(1,)].slot is None
    serving.chunk(flight, 2)
    serving.finish(flight)
    serving.check()
    assert serving.expected.nodes[(1, 2)].slot is not None
