"""The tree cache that ``--radix-cache-backend marconi`` selects."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sglang.srt.mem_cache.unified_cache.components import ComponentType
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

from sglang_marconi.cache import TREE_CORE
from sglang_marconi.cache.full_component import MarconiFullComponent
from sglang_marconi.cache.mamba_component import MarconiMambaComponent
from sglang_marconi.cache.paged_component import PagedMambaComponent
from sglang_marconi.cache.pass_states import PassStates
from sglang_marconi.cache.tracked_states import TrackedStates
from sglang_marconi.cache.waiting import WaitingRequests
from sglang_marconi.events import Decision, Observer, timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.mem_cache.base_prefix_cache import (
        EvictParams,
        EvictResult,
        MatchPrefixParams,
        MatchResult,
    )
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams

    from sglang_marconi.cache.alpha_tuning import AlphaTuning
    from sglang_marconi.policy.eviction import EvictionPolicy


class MarconiRadixCache(UnifiedRadixCache):
    """SGLang's unified radix cache with Marconi's components.

    The behaviour lives in the components, in the tree that reports to the eviction policy
    (``tree_core``) and in what takes states inside passes (``pass_states``); the class is what all
    of them, and an operator reading the log, recognise the backend by.
    """

    # Writes down what the cache holds, in JSON, if that was asked for.
    snapshot: Callable[[], bytes] | None = None

    @property
    def observer(self) -> Observer | None:
        """Who hears of what happens, if anybody does."""
        observer: Observer | None = self.tree_core.observer
        return observer

    def match_prefix(self, params: MatchPrefixParams) -> MatchResult:
        """What of a prompt is there, and where it branches off."""
        return timed(self.observer, Decision.MATCH, super().match_prefix, params)

    def claim_kv_row(self, req: Req) -> bool:
        """Whether a session keeps what a request had: then no checkpoint comes after it."""
        claimed: bool = super().claim_kv_row(req)
        if claimed:
            self.components[ComponentType.MAMBA].leave(req)
        return claimed

    def evict_for_alloc(self, params: EvictParams, **kwargs: Any) -> EvictResult:
        """Make room for a request.

        Where checkpoints have a store of their own, evicting one gives no slot to a request.
        """
        if has_store(self.req_to_token_pool):
            params = replace(params, mamba_num=0)
        return super().evict_for_alloc(params, **kwargs)


def has_store(request_pool: Any) -> bool:
    """Whether checkpoints are kept apart from the slots of running requests."""
    return request_pool.mamba_ckpt_pool is not None


def choose_components(
    params: CacheInitParams,
    policy: EvictionPolicy,
    tuning: AlphaTuning | None = None,
    observer: Observer | None = None,
    *,
    tracked: TrackedStates | None = None,
    passing: PassStates | None = None,
    waiting: WaitingRequests | None = None,
    seen_only: bool = False,
) -> None:
    """Have the cache built from ``params`` use our tree and components, and ``policy``.

    ``tuning``: what changes the policy while serving, if anything does. ``observer``: who hears
    of what happens. ``tracked`` and ``passing``: what hear of each pass; without them no tracked
    state is kept, and none is taken inside a pass. ``waiting``: what follows the queue.
    ``seen_only``: the paper's admission.
    """
    passing = PassStates(params.req_to_token_pool) if passing is None else passing
    paged = has_store(params.req_to_token_pool)
    states = PagedMambaComponent if paged else MarconiMambaComponent
    params.component_registry_override = {
        **(params.component_registry_override or {}),
        ComponentType.FULL: MarconiFullComponent,
        ComponentType.MAMBA: partial(
            states,
            policy=policy,
            tracked=TrackedStates() if tracked is None else tracked,
            passing=passing,
            waiting=WaitingRequests(passing) if waiting is None else waiting,
            seen_only=seen_only,
            tuning=tuning,
            observer=observer,
        ),
    }
    params.tree_core_backend = TREE_CORE
