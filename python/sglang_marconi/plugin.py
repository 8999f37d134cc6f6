"""What SGLang loads: registers the backend, and hooks what it needs, when it is needed.

Every seam is in ``seams.table``; ``docs/seams.md`` shows it. The hooks on the scheduler are applied
only in a process that builds our cache, those on its memory only where the settings ask for a
store of checkpoints, those of the live view where they ask for it. The whole table is checked once
the backend is chosen, before a model is loaded. On a machine without an accelerator ``cpu.install``
adds the recurrent operations.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from sglang_marconi import cpu
from sglang_marconi.compatibility import (
    BACKEND,
    attention_ranks,
    check_arguments,
    check_version,
    cuts_prefills,
)
from sglang_marconi.seams import (
    IncompatibleSGLang,
    apply_hooks,
    check_seams,
    hook,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from sglang.srt.mem_cache.base_prefix_cache import BasePrefixCache
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.registry import TreeCacheBuildContext
    from sglang.srt.mem_cache.unified_cache.components import ComponentType, TreeComponent
    from sglang.srt.mem_cache.unified_cache.unified_tree_core_interface import (
        UnifiedTreeCoreInterface,
    )

    from sglang_marconi.cache.branch_cut import BranchCut
    from sglang_marconi.cache.pass_states import PassStates
    from sglang_marconi.cache.tracked_states import TrackedStates
    from sglang_marconi.cache.waiting import WaitingRequests
    from sglang_marconi.settings.schema import Settings

WORKER_APP = "sglang_marconi.declare.worker_app:app"
"""The HTTP application of worker processes."""


def register() -> None:
    """Entry point of SGLang's plugin loader.

    Runs in every SGLang process before arguments are parsed. With a SGLang that this version
    does not fit, nothing is registered but the error that choosing the backend gives.
    """
    try:
        check_version()
        cpu.install()
    except IncompatibleSGLang as error:
        hook(table.RESOLVE, _Refuse(error))
        return
    from sglang.srt.mem_cache.registry import register_radix_cache_backend
    from sglang.srt.mem_cache.unified_cache.tree_core_registry import register_tree_core_backend

    from sglang_marconi.cache import TREE_CORE

    register_radix_cache_backend(BACKEND, build_cache)
    register_tree_core_backend(TREE_CORE, build_tree_core)
    hook(table.RESOLVE, _check_if_chosen)
    hook(table.PUBLISH, _hook_if_chosen)


def build_cache(ctx: TreeCacheBuildContext) -> BasePrefixCache:
    """The factory behind ``--radix-cache-backend marconi``; runs in the scheduler process."""
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.mem_cache.registry import create_unified_radix_cache

    from sglang_marconi.cache import declared
    from sglang_marconi.cache.branch_cut import BranchCut
    from sglang_marconi.cache.live_policy import LivePolicy
    from sglang_marconi.cache.live_settings import add_updates
    from sglang_marconi.cache.pass_states import PassStates
    from sglang_marconi.cache.pricing import price_config, with_pools
    from sglang_marconi.cache.radix_cache import MarconiRadixCache, choose_components, has_store
    from sglang_marconi.cache.tracked_states import TrackedStates
    from sglang_marconi.cache.waiting import WaitingRequests
    from sglang_marconi.forward.install import install
    from sglang_marconi.observe.build import Listeners
    from sglang_marconi.observe.requests import Admissions
    from sglang_marconi.settings.handover import settings_from_resolved

    params = ctx.params
    settings = settings_from_resolved(params.eviction_policy_config)
    # SGLang's own policies would reject our keys.
    params.eviction_policy_config = None
    ranks = attention_ranks(resolving_view(ctx.server_args))
    cost = price_config(ctx.model_config.hf_config, settings, tp_size=ranks)
    pool = params.req_to_token_pool
    if has_store(pool):
        pool.mamba_ckpt_pool.attach(pool.mamba_pool, stream_of_requests(ctx))
        hook(table.RELEASE_MEMORY, pool.mamba_ckpt_pool.release)
    cost = with_pools(cost, params)
    listeners = Listeners(settings, params)
    policy = LivePolicy(settings, cost, params, listeners.observer)
    tracked = TrackedStates()
    passing = PassStates(pool, inside=not cuts_prefills(ctx.model_config.hf_config))
    seen_only = settings.admission == "seen"
    waiting = WaitingRequests(passing, holds=not seen_only)
    choose_components(
        params,
        policy.eviction,
        policy.tuning,
        listeners.observer,
        tracked=tracked,
        passing=passing,
        waiting=waiting,
        seen_only=seen_only,
    )
    install()
    _hook_queue(BranchCut(passing), waiting)
    _hook_passes(passing, tracked)
    hook(table.UPDATES, partial(add_updates, policy))
    hook(table.CACHED_DETAILS, declared.report)
    if listeners.observer is not None:
        admissions = Admissions(listeners.observer)
        hook(table.COMMIT_ADMISSION, admissions.admitted)
    apply_hooks()
    cache = create_unified_radix_cache(ctx, cache_class=MarconiRadixCache)
    listeners.attach(cache, cost, params)
    return cache


def build_tree_core(
    params: CacheInitParams, components: dict[ComponentType, TreeComponent]
) -> UnifiedTreeCoreInterface:
    """The factory of the tree that ``build_cache`` asks SGLang for."""
    from sglang_marconi.cache.tree_core import MarconiTreeCore

    return MarconiTreeCore(params, components)


def stream_of_requests(ctx: TreeCacheBuildContext) -> torch.cuda.Stream | None:
    """The stream on which forward passes run, ``None`` where it is the scheduler's own.

    As ``Scheduler.run_batch`` has it: it changes streams for a pass only with overlap scheduling.
    """
    from sglang.srt.runtime_context import get_schedule

    runner = ctx.tp_worker.model_runner
    apart = runner.device != "cpu" and not get_schedule().disable_overlap_schedule
    return runner.forward_stream if apart else None


def strategy_of_requests(args: Any) -> str:
    """SGLang's strategy, by which it gives each running request slots to track states in.

    With KV pages of one token nothing reads them: a reply's last state is at its last token, and
    those inside prompts are taken in passing.
    """
    given: str = args.mamba_radix_cache_strategy
    # Decode context parallelism widens the pages that the tree has.
    return given if args.page_size * args.dcp_size > 1 else "no_buffer"


def _track_every_page(original: Callable[[int], int], tree_page: int) -> int:
    """With larger KV pages, keep the state of the last whole one rather than of a coarser grid.

    While decoding any token can be tracked; SGLang's grid is a prefill kernel's.
    """
    return tree_page if tree_page > 1 else original(tree_page)


def _hook_queue(cut: BranchCut, waiting: WaitingRequests) -> None:
    """Who waits for a pass under way; once a request is admitted, what it resumes from is used."""
    hook(table.SELECT_ADMISSION, cut.admission)
    hook(table.ADD_CHUNKED, cut.continuation)
    hook(table.PREFILL_ROUND, waiting.begin)
    hook(table.NEXT_ROUND, waiting.look)
    hook(table.ADD_REQUEST, waiting.admit)
    hook(table.PREEMPT, waiting.preempt)


def _hook_passes(passing: PassStates, tracked: TrackedStates) -> None:
    """What each pass leaves."""
    hook(table.TRACK_GRID, _track_every_page)
    hook(table.DECODE, tracked.before_decode)
    hook(table.RUN_BATCH, tracked.launched)
    hook(table.RUN_BATCH, passing.plan)
    hook(table.FORWARD, passing.run)
    hook(table.RESULT, passing.read)


def _hook_if_chosen(_result: object, server_args: Any, *, role: str, **_: Any) -> None:
    """In a process that knows its role, and is about to build what has to do with the cache."""
    from sglang.srt.arg_groups.overrides import resolving_view

    from sglang_marconi.settings.handover import settings_from_resolved

    args = resolving_view(server_args)
    if args.radix_cache_backend != BACKEND:
        return
    settings = settings_from_resolved(args.radix_eviction_policy_config)
    if role == "scheduler":
        from sglang_marconi.cache.memory_split import spared_slots

        spared = spared_slots(
            server_args.mamba_radix_cache_strategy,
            tracks=args.mamba_radix_cache_strategy != "no_buffer",
            overlap=not args.disable_overlap_schedule,
        )
        _hook_memory(settings, spared)
    if role == "tokenizer":
        if args.tokenizer_worker_num > 1:
            # What its worker processes import, in which SGLang loads no plugins.
            os.environ.setdefault("SGLANG_HTTP_SERVER_APP_PATH", WORKER_APP)
        _hook_declarations()
    if settings.inspect:
        _hook_inspection(role)


def _hook_memory(settings: Settings, spared: int) -> None:
    """The hooks of ``cache.memory_split``."""
    from sglang_marconi.cache.memory_split import SlotsOfRequests, StoreBuilder

    if settings.has_store:
        store = StoreBuilder(settings, spared)
        hook(table.SIZE_STATES, store.split)
        hook(table.SLOTS_OF_A_REQUEST, store.slots_of_a_request)
        hook(table.STATE_POOLS, store.build_pool)
    else:
        hook(table.SLOTS_OF_A_REQUEST, SlotsOfRequests(spared).count)
    apply_hooks()


def _hook_declarations() -> None:
    """Where a request says that its prompts are going to part, and what it is told of that."""
    from sglang_marconi.declare import requests, usage

    hook(table.TOKENIZED, requests.check)
    hook(table.ANSWERS, usage.lift)
    # Not so in a process that serves no HTTP, such as an Engine's.
    if table.HTTP in sys.modules:
        usage.teach_protocol()
        hook(table.GENERATE, requests.generate)
        hook(table.CONVERT_CHAT, requests.convert)
        hook(table.USAGE, usage.total)
        hook(table.CHAT_STREAM, usage.total_in_stream)
        hook(table.ANTHROPIC_USAGE, usage.as_anthropic)
    apply_hooks()


def _hook_inspection(role: str) -> None:
    """The live view ``/marconi``: who asks, who passes it on, who answers."""
    from sglang_marconi.observe.inspection import exchange

    exchange.teach_types()
    if role == "scheduler":
        hook(table.DISPATCHER, exchange.answer)
    elif role == "tokenizer":
        exchange.teach_tokenizer()
        # Not so in a process that serves no HTTP, such as an Engine's.
        if table.HTTP in sys.modules:
            hook(table.SET_STATE, _add_routes)
    apply_hooks()


def _add_routes(_result: None, state: Any) -> None:
    from sglang_marconi.observe.inspection import exchange
    from sglang_marconi.observe.inspection.routes import add_routes

    add_routes(sys.modules[table.HTTP].app, partial(exchange.ask, state.tokenizer_manager))


def _check_if_chosen(_result: None, server_args: Any) -> None:
    """Check what a server was given, once, and hand its settings on.

    SGLang resolves in each process, but what was declared travels with the arguments: from here
    on all processes have the same settings, whatever becomes of the file that they came from.
    """
    from sglang.srt.arg_groups.model_override_base import model_config_of
    from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view

    from sglang_marconi.cache.pricing import price_config
    from sglang_marconi.settings.handover import to_resolved
    from sglang_marconi.settings.schema import parse_settings

    args = resolving_view(server_args)
    if args.radix_cache_backend != BACKEND:
        return
    given = args.radix_eviction_policy_config
    if given is not server_args.radix_eviction_policy_config:
        return  # Declared below, by this process or by the one that started it.
    check_seams()
    settings = parse_settings(given)
    check_arguments(args)
    price_config(model_config_of(server_args).hf_config, settings, tp_size=attention_ranks(args))
    declare_resolution(
        server_args,
        "sglang_marconi",
        radix_eviction_policy_config=to_resolved(settings),
        mamba_radix_cache_strategy=strategy_of_requests(args),
    )


class _Refuse:
    """Raises an earlier error, once the backend that it concerns is chosen."""

    def __init__(self, error: IncompatibleSGLang) -> None:
        self.error = error

    def __call__(self, _result: None, server_args: Any) -> None:
        if server_args.radix_cache_backend == BACKEND:
            raise self.error
