"""Makes SGLang's in-process kits build our cache with our tree and components."""

from __future__ import annotations

import pytest
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.unified_cache import tree_core_registry
from sglang.test.kits.unified_radix_cache import fixtures
from sglang.test.kits.unified_radix_cache.unified_tree_core_inspector import (
    UnifiedTreeCoreInspector,
)
from sglang_marconi.cache import TREE_CORE
from sglang_marconi.cache.radix_cache import MarconiRadixCache, choose_components
from sglang_marconi.cache.tracked_states import Tracked, TrackedStates
from sglang_marconi.cache.tree_core import MarconiTreeCore
from sglang_marconi.cost import token_length_cost
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.utility import PaperUtility
from support.tree_serving import with_free_passes


class TrackedByRequest(TrackedStates):
    """What a kit writes into a request, as it runs no passes that could be noted."""

    def newest(self, req: Req, most: int, page_size: int) -> Tracked | None:
        kv = req.kv
        last = Tracked(kv.mamba_last_track_seqlen or 0, kv.mamba_last_track_idx)
        before = Tracked(kv.mamba_prev_track_seqlen or 0, 1 - kv.mamba_last_track_idx)
        usable = [state for state in (last, before) if 0 < state.tokens <= most]
        return max(usable, default=None)


class InspectedTree(UnifiedTreeCoreInspector, MarconiTreeCore):
    """Our tree, which the kits can look into."""


def build_marconi_cache(params: CacheInitParams) -> MarconiRadixCache:
    """What the kits call in place of SGLang's ``UnifiedRadixCache``."""
    cost = with_free_passes(token_length_cost(state_bytes=100, kv_bytes_per_token=1))
    policy = EvictionPolicy(cost, PaperUtility(0.0))
    choose_components(params, policy, tracked=TrackedByRequest())
    return MarconiRadixCache(params=params)


@pytest.fixture(autouse=True)
def marconi_in_the_kits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tree that a kit builds is ours, on the CPU."""
    monkeypatch.setitem(tree_core_registry._TREE_CORE_REGISTRY, TREE_CORE, InspectedTree)
    monkeypatch.setattr(fixtures, "selected_tree_core_test_backend", lambda: TREE_CORE)
    monkeypatch.setattr(fixtures, "UnifiedRadixCache", build_marconi_cache)
    monkeypatch.setattr(fixtures, "get_device", lambda: "cpu")
