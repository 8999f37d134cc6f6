"""A driver of SGLang's tree whose checkpoints are in a store, as a server has them with one."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from marconi_kernels import Encoding, StateLayout
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cache.checkpoint_pool import CheckpointPool, active_tensors
from sglang_marconi.cost import preset
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.forms import forms_of
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.pool import CheckpointStore, store_size

from support.tree_serving import SINGLE_TOKENS, Flight, Serving, with_free_passes

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
        # Each checkpoint is a node's, in the form that the policy takes it for, among others.
        self.cache.sanity_check()
        # SGLang's own check of a server that is idle.
        evictable, protected = self.cache.mamba_evictable_size(), self.cache.mamba_protected_size()
        assert (
            self.checkpoints.available_size() + evictable + protected == self.checkpoints.num_slots
        )
        held = len(self.flights) * (1 + self.tracking_slots)
        assert self.states.available_size() + held == self.cfg.mamba_cache_size
