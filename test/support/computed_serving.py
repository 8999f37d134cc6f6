"""A driver of SGLang's tree whose requests compute states: what a hit resumes from shows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from sglang.srt.mem_cache.memory_pool import HybridReqToTokenPool
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.forward.plan import PassPlan
from sglang_marconi.policy.eviction import EvictionPolicy

from support.tree_serving import Flight, Serving

_BUILD_SLOTS = HybridReqToTokenPool._init_mamba_pool
_EOS = 7
# As Qwen4-Exp's PLE has it; layer 1, too, where the states have layers 0 and 2.
ATTACHED = {
    "short_conv_layer_ids": [0, 1, 2],
    "short_conv_state_shape": (24, 9),
    "ngram_context_len": 2,
    "ngram_eos_token_id": _EOS,
}


class ComputedServing(Serving):
    """A cache whose checkpoints share the slots of requests, which compute states in them."""

    def __init__(self, cfg: CacheConfig, policy: EvictionPolicy, *, attached: bool) -> None:
        """``attached``: slots have what Qwen4-Exp's PLE keeps of a prefix, too."""

        def build_slots(pool: HybridReqToTokenPool, **given: Any) -> None:
            _BUILD_SLOTS(pool, **(given | ATTACHED if attached else given))
            self.add_store(pool)

        with mock.patch.object(HybridReqToTokenPool, "_init_mamba_pool", build_slots):
            super().__init__(cfg, policy)
        assert bool(self.pool.mamba_pool._slot_siblings) == attached

    def add_store(self, pool: HybridReqToTokenPool) -> None:
        """Checkpoints share the slots here."""

    # ---- states ----

    def slots(self, slot: int) -> list[torch.Tensor]:
        """What a slot holds, by SGLang, a layer each; the recurrent states of all come last."""
        states = self.pool.mamba_pool
        entries = [
            (name, tensor[slot]) for name, tensor, *_ in states._iter_transfer_state_entries()
        ]
        parts = [part for name, part in entries if name != "temporal"]
        return [*parts, states.mamba_cache.temporal[:, slot]]

    def state_of(self, tokens: Sequence[int]) -> list[torch.Tensor]:
        """The state after these tokens."""
        if not tokens:
            numbers = [0 if part.is_floating_point() else _EOS for part in self.slots(0)]
            return [
                torch.full_like(part, number)
                for part, number in zip(self.slots(0), numbers, strict=True)
            ]
        seed = torch.Generator().manual_seed(zlib.crc32(bytes(tokens)))
        return [
            torch.randn(part.shape, generator=seed).to(part.dtype)
            if part.is_floating_point()
            # Of more digits than any float has that they could be rounded to.
            else torch.randint(2**62, part.shape, generator=seed)
            for part in self.slots(0)
        ]

    def compute(
        self, flight: Flight, tokens: Sequence[int], slot: torch.Tensor | None = None
    ) -> None:
        """A pass over the request's tokens up to and with ``tokens``' last, into its slot."""
        slot = flight.req.kv.mamba_pool_idx if slot is None else slot
        for part, value in zip(self.slots(int(slot)), self.state_of(tokens), strict=True):
            part.copy_(value)

    def restore(self, flight: Flight) -> None:
        """What SGLang's model runner does before a pass of a request's prefill."""
        kv, computed = flight.req.kv, flight.computed
        slot = kv.mamba_pool_idx.unsqueeze(0)
        if kv.mamba_cow_src_index is not None:
            self.copy(kv.mamba_cow_src_index, slot)
        elif kv.mamba_needs_clear:
            self.pool.mamba_pool.clear_slots(slot)
        self.compare(self.slots(int(slot)), self.state_of(flight.prompt[:computed]))
        kv.mamba_cow_src_index, kv.mamba_needs_clear = None, False

    def copy(self, state: torch.Tensor, slot: torch.Tensor) -> None:
        """A state of the tree's into a request's slot."""
        self.pool.copy_mamba_state(state, slot)

    def compare(self, found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
        """What a request resumes from."""
        for part, value in zip(found, expected, strict=True):
            assert torch.equal(part, value)

    # ---- requests ----

    def begin(self, prompt: Sequence[int], *, evict_in_match: bool = False) -> Flight | None:
        flight = super().begin(prompt, evict_in_match=evict_in_match)
        if flight is not None:
            assert (flight.req.kv.mamba_cow_src_index is None) == (flight.computed == 0)
            self.restore(flight)
        return flight

    def compute_pass(self, flight: Flight, up_to: int) -> Callable[[PassPlan | None], None]:
        def compute(plan: PassPlan | None) -> None:
            if plan is not None:
                for place, slot in zip(plan.places, plan.slots, strict=True):
                    self.compute(flight, flight.prompt[: flight.computed + place.tokens], slot)
            self.compute(flight, flight.prompt[:up_to])

        return compute

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
        # Each checkpoint is a node's, in the form that the policy takes it for, among others.
        self.cache.sanity_check()
        # SGLang's own check of a server that is idle.
        held = len(self.flights) * (1 + self.tracking_slots)
        cached = self.cache.mamba_evictable_size() + self.cache.mamba_protected_size()
        assert self.unused(cached) + held == self.cfg.mamba_cache_size

    def unused(self, cached: int) -> int:
        """Slots that no request holds; ``cached``: what the tree counts of states."""
        return int(self.states.available_size()) + cached
