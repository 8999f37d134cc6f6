"""Checkpoints in a store of their own, under any use of SGLang's tree: what a hit resumes from.

A request's state is made up from the tokens it stands for, so that each hit shows whether it
resumes from the state of just its prefix.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from unittest import mock

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from marconi_kernels import Encoding, StateLayout
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cache.checkpoint_pool import CheckpointPool, active_tensors
from sglang_marconi.cost import preset
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.forms import forms_of
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.utility import PaperUtility
from sglang_marconi.pool import CheckpointStore, store_size
from support.tree_serving import MAMBA, SINGLE_TOKENS, Flight, Serving, Tokens, with_free_passes

# States large enough that a byte an element saves room, scales and whole pages included.
CONFIG = replace(
    SINGLE_TOKENS,
    kv_size=80,
    mamba_num_heads=2,
    mamba_head_dim=32,
    mamba_intermediate_size=64,
    mamba_state_size=16,
    num_layers=3,
    full_attention_layer_ids=(1,),
)


def in_pages(size: int) -> CacheConfig:
    """The same with pages of so many tokens, for which SGLang tracks states in slots beside."""
    return replace(
        CONFIG,
        page_size=size,
        enable_mamba_extra_buffer=True,
        kv_size=size * CONFIG.kv_size,
        mamba_cache_size=16,
        max_context_len=size * CONFIG.max_context_len,
    )


_MAKE_POOL = "sglang.srt.mem_cache.mamba_checkpoint_pool.maybe_init_int8_mamba_checkpoint_pool"
_CHECKPOINTS, _ON_HOST = 4, 3


class StoredServing(Serving):
    """A cache whose checkpoints have a store, and requests that compute states."""

    def __init__(
        self, cfg: CacheConfig, valuation: Valuation, *, lossy: Encoding | None, host: bool
    ) -> None:
        self.loads = {"exact": 0, "lossy": 0}

        def make_pool(*, cache_params: Any, mamba_layer_ids: list[int], **_: Any) -> CheckpointPool:
            shapes, dtypes = cache_params.shape, cache_params.dtype
            tensors = [torch.empty(2, 1, *shape, dtype=dtypes.conv) for shape in shapes.conv]
            tensors.append(torch.empty(2, 1, *shapes.temporal, dtype=dtypes.temporal))
            assert len(mamba_layer_ids) == 2
            lossless = [False] * len(shapes.conv)
            layout = StateLayout.of(tensors, [*lossless, True], page_bytes=512)
            exact = layout.pages(Encoding.EXACT) * layout.page_bytes
            size = store_size(
                layout,
                _CHECKPOINTS * exact + (exact if lossy or host else 0),
                lossy=lossy,
                host_bytes=_ON_HOST * exact if host else 0,
            )
            return CheckpointPool(
                CheckpointStore(layout, size, lossy=lossy, device=torch.device("cpu"))
            )

        names = None if lossy is None else (lossy.name.lower(), 2)
        cost = with_free_passes(preset("paper-7b"))
        policy = EvictionPolicy(cost, valuation, forms_of(4, names, host=host))
        with mock.patch(_MAKE_POOL, make_pool):
            super().__init__(cfg, policy)
        self.checkpoints: CheckpointPool = self.pool.mamba_ckpt_pool
        self.store = self.checkpoints.store
        assert len(self.store.forms) == len(policy.forms)

    # ---- states ----

    def slots(self, slot: int) -> list[torch.Tensor]:
        """What a slot of the state pool holds, in all layers."""
        return [tensor[:, slot] for tensor in active_tensors(self.pool.mamba_pool)]

    def state_of(self, tokens: Sequence[int]) -> list[torch.Tensor]:
        """The state after these tokens."""
        seed = torch.Generator().manual_seed(zlib.crc32(bytes(tokens)))
        return [torch.randn(part.shape, generator=seed).to(part.dtype) for part in self.slots(0)]

    def compute(
        self, flight: Flight, tokens: Sequence[int], slot: torch.Tensor | None = None
    ) -> None:
        """A pass over the request's tokens up to and with ``tokens``' last, into its slot."""
        slot = flight.req.kv.mamba_pool_idx if slot is None else slot
        for part, value in zip(self.slots(int(slot)), self.state_of(tokens), strict=True):
            part.copy_(value)

    def restore(self, flight: Flight) -> None:
        """What SGLang's model runner does before a request's first pass."""
        kv, start = flight.req.kv, flight.req.kv.cache_protected_len
        assert (kv.mamba_cow_src_index is None) == (start == 0)
        if start == 0:
            return
        slot = kv.mamba_pool_idx.unsqueeze(0)
        self.checkpoints.load_to_active(self.pool.mamba_pool, kv.mamba_cow_src_index, slot)
        encoding = self.store.forms[self.store.form(int(kv.mamba_cow_src_index))]
        found, expected = self.slots(int(slot)), self.state_of(flight.prompt[:start])
        exact = encoding.lost == 0 or (len(self.store.forms) == 2 and encoding.host_bytes > 0)
        self.loads["exact" if exact else "lossy"] += 1
        for number, (part, value) in enumerate(zip(found, expected, strict=True)):
            windows = number < len(found) - 1
            if exact or windows:
                assert torch.equal(part, value)
            else:
                bound = value.abs().max().item() / 64
                assert (part - value).abs().max().item() < bound
        kv.mamba_cow_src_index = None

    # ---- requests ----

    def begin(self, prompt: Sequence[int], *, evict_in_match: bool = False) -> Flight | None:
        flight = super().begin(prompt, evict_in_match=evict_in_match)
        if flight is not None:
            self.restore(flight)
        return flight

    def room_for_states(self, count: int) -> bool:
        # Slots are there for the requests that may run at a time.
        return self.states.available_size() >= count

    def chunk(self, flight: Flight, up_to: int) -> None:
        self.compute(flight, flight.prompt[:up_to])
        super().chunk(flight, up_to)

    def decode(self, flight: Flight, reply: Sequence[int]) -> None:
        super().decode(flight, reply)
        self.compute(flight, flight.tokens)

    def finish(
        self,
        flight: Flight,
        *,
        unwanted: int = 0,
        tracked: int | None = None,
        tracked_before: int | None = None,
    ) -> None:
        if self.tracking_slots:
            # The first one goes into the first slot, the second into the other.
            lengths = [at for at in (tracked_before, tracked) if at is not None]
            slots = flight.req.kv.mamba_ping_pong_track_buffer
            for at, slot in zip(lengths, slots, strict=False):
                self.compute(flight, flight.tokens[:at], slot)
        super().finish(flight, unwanted=unwanted, tracked=tracked, tracked_before=tracked_before)

    # ---- after each step ----

    def check(self) -> None:
        self.cache.sanity_check()
        nodes = {
            int(node.component_data[MAMBA].value): node
            for node in self.tree._collect_all_nodes()
            if node is not self.tree.root_node and node.component_data[MAMBA].value is not None
        }
        # Each checkpoint is a node's, in the form that the policy takes it for.
        held = sum(self.store.count(form) for form in range(len(self.store.forms)))
        assert held == len(nodes)
        for number, node in nodes.items():
            assert self.store.form(number) == self.tree.prefix(node).form
        # SGLang's own check of a server that is idle.
        evictable, protected = self.cache.mamba_evictable_size(), self.cache.mamba_protected_size()
        assert (
            self.checkpoints.available_size() + evictable + protected == self.checkpoints.num_slots
        )
        held = len(self.flights) * (1 + self.tracking_slots)
        assert self.states.available_size() + held == self.cfg.mamba_cache_size


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

    @initialize(valuation=st.sampled_from([PredictedReuse, lambda: PaperUtility(0.5)]))
    def start(self, valuation: Any) -> None:
        cfg = CONFIG if self.page == 1 else in_pages(self.page)
        self.serving = StoredServing(cfg, valuation(), lossy=self.lossy, host=self.host)
        self.seen: list[list[int]] = []

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
    )
    def request(
        self, sequence: Given, reply: list[int], more: list[int], tracked: int | None
    ) -> None:
        """A whole request, cut at its branch point."""
        flight = self.serving.begin(self.tokens(sequence))
        if flight is None:
            return
        if flight.branch is not None:
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
    lossy, host = Encoding.INT8, True


class PagesMachine(StoreMachine):
    page = 4


class LossyPagesMachine(LossyHostMachine):
    page = 16


class LargePagesMachine(StoreMachine):
    page = 64


_MACHINE = settings(max_examples=60, stateful_step_count=40, deadline=None)
_LARGER = settings(_MACHINE, max_examples=40)
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


def test_a_state_of_which_no_token_would_be_kept_is_not_kept() -> None:
    serving = StoredServing(CONFIG, PaperUtility(0.0), lossy=None, host=False)
    states = serving.pool.mamba_pool
    states.replayssm_write_pos = torch.zeros(states.size + 1, dtype=torch.int32)
    flight = serving.begin([1, 2])
    assert flight is not None
    serving.chunk(flight, 2)
    serving.decode(flight, [3, 4, 5])
    # ReplaySSM's state lags behind by as many tokens as the prompt has, and the reply is dropped.
    states.replayssm_write_pos[flight.req.kv.mamba_pool_idx] = 2
    serving.finish(flight, unwanted=3)
    serving.check()
    assert forms(serving) == {}
