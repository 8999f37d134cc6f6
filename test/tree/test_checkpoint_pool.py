"""Checkpoints in a store of their own, under any use of SGLang's tree: what a hit resumes from.

A request's state is made up from the tokens it stands for, so that each hit shows whether it
resumes from the state of just its prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from marconi_kernels import Encoding
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cost import preset
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.utility import PaperUtility
from support.computed_serving import ComputedServing
from support.stored_serving import CONFIG, StoredServing, in_pages
from support.tree_serving import Flight, with_free_passes
from support.watched_tree import MAMBA, Tokens

picks = st.integers(0, 9)
# A sequence seen before, how many of its pages to keep, the last tokens of pages that follow, and
# tokens after the last whole page.
sequences = st.tuples(
    picks, st.integers(0, 20), st.lists(st.integers(1, 2), max_size=6), st.integers(0, 3)
)
Given = tuple[int, int, list[int], int]


class StoreMachine(RuleBasedStateMachine):
    """Any steps of a scheduler; each hit is compared with the state of its prefix."""

    lossy: ClassVar[Encoding | None] = None
    host: ClassVar[bool] = False
    page: ClassVar[int] = 1
    attached: ClassVar[bool] = False
    serving: ComputedServing

    @initialize(valuation=st.sampled_from([PredictedReuse, lambda: PaperUtility(0.5)]))
    def start(self, valuation: Any) -> None:
        cfg = CONFIG if self.page == 1 else in_pages(self.page)
        self.serving = self.build(cfg, valuation())
        self.seen: list[list[int]] = []

    def build(self, cfg: CacheConfig, valuation: Valuation) -> ComputedServing:
        return StoredServing(
            cfg, valuation, lossy=self.lossy, host=self.host, attached=self.attached
        )

    def tokens(self, sequence: Given) -> list[int]:
        pick, keep, pages, torn = sequence
        tokens = self.seen[pick % len(self.seen)][: keep * self.page] if self.seen else []
        tokens = [*tokens, *self.whole_pages(pages or [1]), *[1] * (torn % self.page)]
        self.seen.append(tokens[: 20 * self.page])
        return self.seen[-1]

    def whole_pages(self, last: list[int]) -> list[int]:
        return [token for end in last for token in [1] * (self.page - 1) + [end]]

    def end(self, flight: Flight, unwanted: int, tracked: int | None) -> None:
        """The request ends; ``tracked``: how many pages ago a state was kept beside, if ever."""
        at = before = None
        if tracked is not None:
            whole = len(flight.tokens) // self.page
            at = max(0, whole - tracked) * self.page or None
            before = at - self.page if at is not None and at > self.page else None
        self.serving.finish(flight, unwanted=unwanted, tracked=at, tracked_before=before)

    def flight(self, pick: int) -> Flight:
        return self.serving.flights[pick % len(self.serving.flights)]

    @rule(
        sequence=sequences,
        reply=st.lists(st.integers(1, 2), max_size=4),
        more=st.lists(st.integers(1, 2), max_size=2),
        tracked=st.none() | st.integers(0, 3),
        cut=st.booleans(),
    )
    def request(
        self, sequence: Given, reply: list[int], more: list[int], tracked: int | None, cut: bool
    ) -> None:
        """A whole request, in one pass or cut at its branch point."""
        flight = self.serving.begin(self.tokens(sequence))
        if flight is None:
            return
        if flight.branch is not None and cut:
            self.serving.chunk(flight, flight.branch)
        self.serving.chunk(flight, len(flight.prompt))
        self.serving.decode(flight, [*self.whole_pages(more), *reply])
        self.end(flight, 0, tracked)
        self.seen.append(flight.tokens[: 20 * self.page])

    @rule(sequence=sequences)
    def begin(self, sequence: Given) -> None:
        self.serving.begin(self.tokens(sequence))

    @precondition(lambda self: self.serving.flights)
    @rule(pick=picks)
    def prefill(self, pick: int) -> None:
        flight = self.flight(pick)
        if not flight.prefilled:
            self.serving.chunk(flight, flight.branch or len(flight.prompt))

    @precondition(lambda self: self.serving.flights)
    @rule(
        pick=picks,
        unwanted=st.integers(0, 1),
        reply=st.lists(st.integers(1, 2), max_size=3),
        tracked=st.none() | st.integers(0, 3),
    )
    def finish(self, pick: int, unwanted: int, reply: list[int], tracked: int | None) -> None:
        flight = self.flight(pick)
        if not flight.prefilled:
            self.serving.chunk(flight, len(flight.prompt))
        self.serving.decode(flight, reply)
        self.end(flight, min(unwanted, len(flight.reply)), tracked)

    @precondition(lambda self: self.serving.flights)
    @rule(pick=picks)
    def abort(self, pick: int) -> None:
        self.serving.abort(self.flight(pick))

    @rule(sequence=sequences)
    def hold(self, sequence: Given) -> None:
        self.serving.hold(self.tokens(sequence), state=True)

    @precondition(lambda self: self.serving.locks)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        locks = self.serving.locks
        self.serving.unlock(locks.pop(pick % len(locks)))

    @rule(pages=st.sampled_from([1, 3, 1000]))
    def evict(self, pages: int) -> None:
        self.serving.evict(states=pages)

    @rule(tokens=st.sampled_from([1, 5, 1000]))
    def evict_kv(self, tokens: int) -> None:
        self.serving.evict(tokens=tokens)

    @precondition(lambda self: len(self.seen) > 8)
    @rule()
    def flush(self) -> None:
        self.serving.flush()
        self.seen.clear()

    @invariant()
    def check(self) -> None:
        if hasattr(self, "serving"):
            self.serving.check()


class LossyMachine(StoreMachine):
    lossy = Encoding.INT8


class HostMachine(StoreMachine):
    host = True


class LossyHostMachine(StoreMachine):
    """Slots hold more than windows and recurrent states, too."""

    lossy, host, attached = Encoding.INT8, True, True


class PagesMachine(StoreMachine):
    page = 4


class LossyPagesMachine(LossyHostMachine):
    page = 16


class LargePagesMachine(StoreMachine):
    page = 64


class SharedMachine(StoreMachine):
    """Checkpoints share the slots of requests."""

    def build(self, cfg: CacheConfig, valuation: Valuation) -> ComputedServing:
        policy = EvictionPolicy(with_free_passes(preset("paper-7b")), valuation)
        return ComputedServing(cfg, policy, attached=True)


class SharedPagesMachine(SharedMachine):
    page = 4


_MACHINE = settings(max_examples=60, stateful_step_count=40, deadline=None)
_LARGER = settings(_MACHINE, max_examples=40)
_SHARED = settings(_MACHINE, max_examples=20)
TestExact = StoreMachine.TestCase
TestExact.settings = _MACHINE
TestLossy = LossyMachine.TestCase
TestLossy.settings = _MACHINE
TestHost = HostMachine.TestCase
TestHost.settings = _MACHINE
TestLossyHost = LossyHostMachine.TestCase
TestLossyHost.settings = _MACHINE
TestPages = PagesMachine.TestCase
TestPages.settings = _LARGER
TestLossyPages = LossyPagesMachine.TestCase
TestLossyPages.settings = _LARGER
TestLargePages = LargePagesMachine.TestCase
TestLargePages.settings = _LARGER
TestShared = SharedMachine.TestCase
TestShared.settings = _SHARED
TestSharedPages = SharedPagesMachine.TestCase
TestSharedPages.settings = _SHARED


# ---- by hand ----


@pytest.fixture(params=[None, Encoding.INT8], ids=["exact", "int8"])
def serving(request: pytest.FixtureRequest) -> Iterator[StoredServing]:
    yield StoredServing(CONFIG, PaperUtility(0.0), lossy=request.param, host=False)


def ask(serving: StoredServing, prompt: Sequence[int], reply: Sequence[int] = (1,)) -> int:
    """Serve a request; how many tokens it resumed after."""
    flight = serving.begin(prompt)
    assert flight is not None
    start = flight.req.kv.cache_protected_len
    if flight.branch is not None:
        serving.chunk(flight, flight.branch)
    serving.chunk(flight, len(prompt))
    serving.decode(flight, reply)
    serving.finish(flight)
    serving.check()
    return start


def forms(serving: StoredServing) -> dict[Tokens, str]:
    """By prefix, how its checkpoint is held."""
    return {
        serving.tree.tokens(node): serving.store.forms[serving.tree.prefix(node).form].name
        for node in serving.tree._collect_all_nodes()
        if node is not serving.tree.root_node and node.component_data[MAMBA].value is not None
    }


def test_states_are_demoted_before_any_goes() -> None:
    serving = StoredServing(CONFIG, PaperUtility(0.0), lossy=Encoding.INT8, host=False)
    for first in range(1, 5):
        ask(serving, [first] * 3)
    assert set(forms(serving).values()) == {"exact"}
    for first in range(5, 7):
        ask(serving, [first] * 3)
        assert len(forms(serving)) == first
    # The oldest of them.
    assert [forms(serving)[(first,) * 3 + (1,)] for first in (1, 2, 6)] == ["int8", "int8", "exact"]
    assert ask(serving, [1, 1, 1, 1, 9]) == 4
    assert serving.loads == {"exact": 0, "lossy": 1}


def test_a_state_on_the_host_is_used_from_there_while_the_device_is_full() -> None:
    serving = StoredServing(CONFIG, PaperUtility(0.0), lossy=None, host=True)
    for first in range(1, 7):
        ask(serving, [first] * 3)
    oldest = (1,) * 3 + (1,)
    assert forms(serving)[oldest] == "host"
    flight = serving.begin([*oldest, 9])
    assert flight is not None
    assert flight.req.kv.cache_protected_len == len(oldest)
    assert forms(serving)[oldest] == "host"
    assert serving.loads == {"exact": 1, "lossy": 0}


def test_a_state_on_the_host_returns_where_there_is_room() -> None:
    serving = StoredServing(CONFIG, PaperUtility(0.0), lossy=None, host=True)
    for first in range(1, 7):
        ask(serving, [first] * 3)
    serving.evict(states=1000)
    # The newest are left, on the host.
    newest = (6,) * 3 + (1,)
    assert forms(serving) == {(first,) * 3 + (1,): "host" for first in (4, 5, 6)}
    assert serving.begin([*newest, 9]) is not None
    assert forms(serving)[newest] == "exact"
    assert serving.loads == {"exact": 1, "lossy": 0}
    serving.check()


def test_a_request_goes_without_a_checkpoint_where_all_are_in_use(
    serving: StoredServing, caplog: pytest.LogCaptureFixture
) -> None:
    first = 1
    while serving.checkpoints.available_size() >= serving.store.pages_of_new:
        ask(serving, [first] * 3)
        serving.hold([first] * 3 + [1], state=True)
        first += 1
    before = forms(serving)
    for _ in range(2):
        assert ask(serving, [9] * 3) == 0
    assert forms(serving) == before
    assert (
        len([r for r in caplog.records if "goes without" in r.message or "go without" in r.message])
        == 1
    )


@pytest.mark.parametrize("page", [4, 16, 64])
def test_a_request_of_which_nothing_was_tracked_costs_no_checkpoint(page: int) -> None:
    serving = StoredServing(in_pages(page), PaperUtility(0.0), lossy=None, host=False)
    for first in range(1, 5):
        ask(serving, [first] * page, [1] * page)
    before = forms(serving)
    assert len(before) == 4
    # It ends between two pages, before SGLang kept a state beside.
    for _ in range(3):
        assert ask(serving, [9] * 2) == 0
    assert forms(serving) == before


def test_a_state_with_tokens_left_to_replay_costs_no_checkpoint() -> None:
    serving = StoredServing(CONFIG, PaperUtility(0.0), lossy=None, host=False)
    states = serving.pool.mamba_pool
    states.replayssm_write_pos = torch.zeros(states.size + 1, dtype=torch.int32)
    for first, pending, kept in ((1, 2, []), (6, 0, [(6, 2, 3, 4, 5)])):
        flight = serving.begin([first, 2])
        assert flight is not None
        serving.chunk(flight, 2)
        serving.decode(flight, [3, 4, 5])
        states.replayssm_write_pos[flight.req.kv.mamba_pool_idx] = pending
        serving.finish(flight)
        serving.check()
        assert list(forms(serving)) == kept
