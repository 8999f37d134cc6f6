"""A cache that requests use as SGLang's scheduler does."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.managers.schedule_batch import FINISH_LENGTH, Req
from sglang.srt.mem_cache.base_prefix_cache import (
    EvictParams,
    EvictResult,
    InsertParams,
    MatchPrefixParams,
    MatchResult,
    TreeLock,
)
from sglang.srt.mem_cache.common import release_kv_cache
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cache.pass_states import PassStates
from sglang_marconi.cache.radix_cache import MarconiRadixCache
from sglang_marconi.cache.tracked_states import TrackedStates
from sglang_marconi.cost import ModelCost
from sglang_marconi.events import Observer
from sglang_marconi.forward.layers import parts
from sglang_marconi.forward.plan import PassPlan, current
from sglang_marconi.policy.eviction import EvictionPolicy

from support.watched_tree import FULL, MAMBA, WatchedTree, build_watched_cache

# A page of one token, and one of four with tracking slots. A prompt of 10 pages fills a
# quarter of the KV, and there are fewer states than a few such prompts have branches.
SINGLE_TOKENS = CacheConfig(
    components=(FULL, MAMBA),
    kv_size=40,
    mamba_cache_size=8,
    max_num_reqs=4,
    max_context_len=64,
    # What a slot holds is not looked at.
    num_layers=2,
    full_attention_layer_ids=(1,),
    head_num=1,
    head_dim=8,
    mamba_intermediate_size=32,
    mamba_state_size=4,
)
PAGES_OF_FOUR = replace(
    SINGLE_TOKENS, page_size=4, enable_mamba_extra_buffer=True, kv_size=160, mamba_cache_size=16
)


def with_free_passes(cost: ModelCost) -> ModelCost:
    """The same cost, by which a state at a branch is worth its room however little it saves.

    Sequences here are shorter than what shows beside a pass.
    """
    return replace(cost, pass_flops=0.0)


SCHEDULER: Any = SimpleNamespace(is_generation=True)


def run_pass(
    cache: MarconiRadixCache,
    req: Req,
    start: int,
    up_to: int,
    compute: Callable[[PassPlan | None], None] = lambda _: None,
) -> None:
    """A pass over a prompt's tokens, from its launch until its result is read.

    ``compute`` writes states where the plan has them, and leaves out no part.
    """
    passing = states_of(cache)

    def forward(*_: object) -> SimpleNamespace:
        plan = current()
        compute(plan)
        if plan is not None:
            plan._written.update(parts(cache.req_to_token_pool))
        return SimpleNamespace()

    batch: Any = SimpleNamespace(
        forward_mode=ForwardMode.EXTEND,
        reqs=[req],
        decoding_reqs=None,
        prefix_lens=[start],
        extend_lens=[up_to - start],
        can_run_dp_prefill_cuda_graph=False,
    )
    passing.plan(SCHEDULER, batch)
    passing.read(None, batch, passing.run(forward, None))


def states_of(cache: MarconiRadixCache) -> PassStates:
    """The states of passes under way."""
    passing: PassStates = cache.components[MAMBA]._passing
    return passing


@dataclass
class Flight:
    """A request under way; it holds a row of KV slots, state slots and a lock."""

    req: Req
    prompt: list[int]
    reply: list[int] = field(default_factory=list)
    computed: int = 0
    """Tokens of the prompt that passes have had, or that it resumed from."""

    @property
    def prefilled(self) -> bool:
        return self.computed == len(self.prompt)

    @property
    def branch(self) -> int | None:
        """Where the rest of its prefill should leave a checkpoint."""
        at = self.req.mamba_branching_seqlen
        return None if at is None or at <= self.computed else at

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.reply


class Serving:
    """A cache and what a scheduler does with it; each method is one step of it.

    A step that needs more room than can be made does nothing.
    """

    def __init__(
        self, cfg: CacheConfig, policy: EvictionPolicy, observer: Observer | None = None
    ) -> None:
        self.cfg = cfg
        self.tracked = TrackedStates()
        self.cache, self.kv, self.pool = build_watched_cache(
            cfg, policy, observer, tracked=self.tracked
        )
        self.tree: WatchedTree = self.cache.tree_core
        self.states = self.pool.mamba_allocator
        self.tracking_slots = 2 if cfg.enable_mamba_extra_buffer else 0
        self.flights: list[Flight] = []
        self.locks: list[TreeLock] = []

    # ---- the tree ----

    def match(self, tokens: Sequence[int], req: Req | None = None) -> MatchResult:
        """Look ``tokens`` up; for ``req``, with a copy of the state to resume from."""
        key = RadixKey(array("q", tokens))
        return self.cache.match_prefix(
            MatchPrefixParams(key=key, req=req, cow_mamba=req is not None)
        )

    def insert(self, tokens: Sequence[int], slots: Any, state: Any | None) -> bool:
        """Give the tree KV and maybe a state; whether it had that state already."""
        value = slots[: len(tokens)]
        result = self.cache.insert(
            InsertParams(key=RadixKey(array("q", tokens)), value=value, mamba_value=state)
        )
        return bool(result.mamba_exist)

    def lock(self, node_id: int, *, state: bool = True) -> TreeLock:
        """Keep a node's KV, and its state, from being evicted."""
        return self.cache.lock(node_id, () if state else (MAMBA,))

    def unlock(self, lock: TreeLock) -> None:
        self.cache.unlock(lock)

    def evict(self, *, tokens: int = 0, states: int = 0) -> EvictResult:
        return self.cache.evict(EvictParams(num_tokens=tokens, mamba_num=states))

    def room_for_states(self, count: int) -> bool:
        """Evict states until ``count`` slots are free, if that can be."""
        short = count - self.states.available_size()
        if short > self.cache.mamba_evictable_size():
            return False
        if short > 0:
            self.evict(states=short)
        return True

    def room_for_kv(self, count: int) -> bool:
        """Evict leaves until ``count`` KV slots are free, if that can be."""
        short = count - self.kv.available_size()
        if short > self.cache.full_evictable_size():
            return False
        if short > 0:
            self.evict(tokens=short)
        return True

    def put(self, tokens: Sequence[int], *, state: bool) -> None:
        """Put a sequence into the tree in one go."""
        if not (self.room_for_kv(len(tokens)) and self.room_for_states(state)):
            return
        slots = self.kv.alloc(len(tokens))
        slot = self.states.alloc(1) if state else None
        had_it = self.insert(tokens, slots, slot)
        whole = len(tokens) // self.cfg.page_size * self.cfg.page_size
        self.kv.free(slots[whole:])
        if state and (had_it or not whole):
            self.states.free(slot)

    def hold(self, tokens: Sequence[int], *, state: bool) -> None:
        """Lock the node at which ``tokens`` would resume."""
        self.locks.append(self.lock(self.match(tokens).last_device_node, state=state))

    # ---- requests ----

    def arrive(self, prompt: Sequence[int]) -> Req:
        """A request that nothing has been done for."""
        return Req(
            rid="request",
            origin_input_text="",
            origin_input_ids=array("q", prompt),
            sampling_params=SamplingParams(temperature=0, max_new_tokens=1),
        )

    def begin(
        self, prompt: Sequence[int], *, evict_in_match: bool = False, req: Req | None = None
    ) -> Flight | None:
        """Admit a request: match, lock, and room for its KV and states.

        ``evict_in_match``: leave it to the match to find a slot for the state it copies. ``req``:
        one that has arrived.
        """
        if len(self.flights) == self.cfg.max_num_reqs:
            return None
        slots = 1 + self.tracking_slots
        spare = self.states.available_size() > 0 or self.cache.mamba_evictable_size() > 1
        if not (spare if evict_in_match else self.room_for_states(slots)):
            return None
        req = self.arrive(prompt) if req is None else req
        req.full_untruncated_fill_ids = array("q", prompt)
        req.extra_key = None
        # The last token is computed anew: it gives the first logits.
        match = self.match(prompt[:-1], req)
        start = match.device_prefix_len
        req.prefix_len, req.last_node = start, match.last_device_node
        req.mamba_branching_seqlen = match.mamba_branching_seqlen
        self.use(req)
        req.lock = self.lock(req.last_node)
        slots -= req.kv.holds_mamba
        need = len(prompt) - start
        if not (self.room_for_states(slots) and self.room_for_kv(need)):
            self.unlock(req.lock)
            release_kv_cache(req, self.cache, checkpoint=False)
            return None
        self.pool.alloc([req])
        row = req.kv.req_pool_idx
        self.pool.write((row, slice(0, start)), self.cache.path_device_indices(req.last_node))
        self.pool.write((row, slice(start, len(prompt))), self.kv.alloc(need))
        req.kv.kv_committed_len = req.kv.kv_allocated_len = len(prompt)
        req.kv.cache_protected_len = start
        flight = Flight(req, list(prompt), computed=start)
        self.flights.append(flight)
        return flight

    def use(self, req: Req) -> None:
        """A request resumes from what it was matched with."""
        self.cache.components[MAMBA].used(req.last_node)

    def chunk(self, flight: Flight, up_to: int) -> None:
        """A pass of the prefill has ended after ``up_to`` tokens, and its result was read."""
        run_pass(self.cache, flight.req, flight.computed, up_to, self.compute_pass(flight, up_to))
        self.cache.checkpoint(flight.req, up_to=up_to)
        flight.computed = up_to

    def compute_pass(self, flight: Flight, up_to: int) -> Callable[[PassPlan | None], None]:
        """The model's part of a pass; what it writes to slots does not matter here."""
        return lambda _plan: None

    def decode(self, flight: Flight, reply: Sequence[int]) -> None:
        """The reply goes on by as much as there is room for."""
        reply = list(reply)[: self.cfg.max_context_len - len(flight.tokens)]
        if not self.room_for_kv(len(reply)):
            return
        kv = flight.req.kv
        end = kv.kv_committed_len + len(reply)
        self.pool.write(
            (kv.req_pool_idx, slice(kv.kv_committed_len, end)), self.kv.alloc(len(reply))
        )
        kv.kv_committed_len = kv.kv_allocated_len = end
        flight.reply += reply
        flight.req.output_ids.extend(reply)

    def finish(
        self,
        flight: Flight,
        *,
        unwanted: int = 0,
        tracked: int | None = None,
        tracked_before: int | None = None,
    ) -> None:
        """The request ends; the last ``unwanted`` tokens of its reply are past a stop.

        ``tracked`` and ``tracked_before``: the prefixes whose states are in tracking slots.
        """
        if unwanted:
            flight.req.finished_len = len(flight.reply) - unwanted
        self.end(flight, FINISH_LENGTH(length=0), tracked=tracked, tracked_before=tracked_before)

    def end(
        self,
        flight: Flight,
        reason: Any,
        *,
        tracked: int | None = None,
        tracked_before: int | None = None,
    ) -> None:
        """The request ends for a reason of SGLang's."""
        req = flight.req
        req.finished_reason = reason
        for tokens in (tracked_before, tracked):
            self._decode_tracks(req, tokens)
        release_kv_cache(req, self.cache, checkpoint=True)
        self.flights.remove(flight)

    def _decode_tracks(self, req: Req, tokens: int | None) -> None:
        """A pass of one decode, which keeps the state after ``tokens`` tokens, if any."""
        if tokens is None:
            return
        batch = SimpleNamespace(
            forward_mode=ForwardMode.DECODE,
            reqs=[req],
            seq_lens_cpu=torch.tensor([tokens]),
            mamba_prefill_track_mask_cpu=None,
            mamba_track_mask_cpu=[True],
        )
        self.tracked.before_decode(batch)
        batch.mamba_track_buffer_indices = [req.kv.mamba_next_track_idx]
        self.tracked.launched(None, batch)
        req.kv.mamba_last_track_idx = req.kv.mamba_next_track_idx

    def abort(self, flight: Flight) -> None:
        """The request ends and leaves nothing."""
        release_kv_cache(flight.req, self.cache, checkpoint=False)
        self.flights.remove(flight)

    def flush(self) -> None:
        """Forget everything, as SGLang does once no request is under way."""
        for flight in list(self.flights):
            self.abort(flight)
        while self.locks:
            self.unlock(self.locks.pop())
        self.cache.reset()
        self.pool.clear()
        self.kv.clear()
