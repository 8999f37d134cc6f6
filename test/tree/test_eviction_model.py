"""Any use of SGLang's tree and pools, against dicts of what they must hold and may evict."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cost import ModelCost, preset
from support.checked_serving import CheckedServing
from support.tree_expected import Expected
from support.tree_serving import (
    PAGES_OF_FOUR,
    SINGLE_TOKENS,
    Flight,
    with_free_passes,
)

_PAPER = with_free_passes(preset("paper-7b"))
# The second makes a token's KV count as much as a state.
_COSTS = (_PAPER, _PAPER.with_pool_bytes(state_bytes=1, kv_bytes_per_token=1))
_MORE_THAN_THERE_IS = 1000


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
        # A match splits nodes, so some go before it.
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
