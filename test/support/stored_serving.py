"""A driver of SGLang's tree whose checkpoints are in a store, as a server has them with one."""

from __future__ import annotations

from dataclasses import replace

import torch
from marconi_kernels import Encoding
from sglang.srt.mem_cache.memory_pool import HybridReqToTokenPool
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cache.checkpoint_pool import CheckpointPool
from sglang_marconi.cache.slot_states import state_layout
from sglang_marconi.cost import preset
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.forms import forms_of
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.pool import CheckpointStore, store_size

from support.computed_serving import ComputedServing
from support.tree_serving import SINGLE_TOKENS, with_free_passes

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


_CHECKPOINTS, _ON_HOST = 4, 3


class StoredServing(ComputedServing):
    """A cache whose checkpoints have a store, and requests that compute states."""

    def __init__(
        self,
        cfg: CacheConfig,
        valuation: Valuation,
        *,
        lossy: Encoding | None,
        host: bool,
        attached: bool = False,
    ) -> None:
        self.loads = {"exact": 0, "lossy": 0}
        # How far off the recurrent states that were loaded last may be.
        self._bound = 0.0
        self._lossy, self._host = lossy, host
        names = None if lossy is None else (lossy.name.lower(), 2)
        cost = with_free_passes(preset("paper-7b"))
        policy = EvictionPolicy(cost, valuation, forms_of(4, names, host=host))
        super().__init__(cfg, policy, attached=attached)
        self.checkpoints: CheckpointPool = self.pool.mamba_ckpt_pool
        self.store = self.checkpoints.store
        assert len(self.store.forms) == len(policy.forms)

    def add_store(self, pool: HybridReqToTokenPool) -> None:
        layout = state_layout(pool.mamba_pool, page_bytes=512)
        exact = layout.pages(Encoding.EXACT) * layout.page_bytes
        size = store_size(
            layout,
            _CHECKPOINTS * exact + (exact if self._lossy or self._host else 0),
            lossy=self._lossy,
            host_bytes=_ON_HOST * exact if self._host else 0,
        )
        store = CheckpointStore(layout, size, lossy=self._lossy, device=torch.device("cpu"))
        pool.mamba_ckpt_pool = CheckpointPool(store)

    # ---- states ----

    def copy(self, state: torch.Tensor, slot: torch.Tensor) -> None:
        self.checkpoints.load_to_active(self.pool.mamba_pool, state, slot)
        form = self.store.forms[self.store.form(int(state))]
        exact = form.lost == 0 or (len(self.store.forms) == 2 and form.host_bytes > 0)
        self.loads["exact" if exact else "lossy"] += 1
        self._bound = 0.0 if exact else 1 / 64

    def compare(self, found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
        bound, self._bound = self._bound * expected[-1].abs().max().item(), 0.0
        # All but the recurrent states come back bit for bit, whatever the form.
        super().compare(found[:-1], expected[:-1])
        assert (found[-1] - expected[-1]).abs().max().item() <= bound

    # ---- requests ----

    def room_for_states(self, count: int) -> bool:
        # Slots are there for the requests that may run at a time.
        return bool(self.states.available_size() >= count)

    # ---- after each step ----

    def unused(self, cached: int) -> int:
        assert self.checkpoints.available_size() + cached == self.checkpoints.num_slots
        return super().unused(0)
