"""The one place that touches SGLang's registries and hooks.

| seam of SGLang                                        | kind   | what for                        |
|-------------------------------------------------------|--------|---------------------------------|
| ``register_radix_cache_backend``                      | public | the name ``marconi``            |
| ``CacheInitParams.component_registry_override``       | public | our components of the tree      |
| ``register_tree_core_backend``                        | public | our tree, which they report to  |
| ``ServerArgs.resolve_once`` (after)                   | hook   | refuse bad use before the load  |
| ``PrefillAdder._select_prefill_admission`` (around)   | hook   | end a first chunk on the branch |
| ``PrefillAdder.add_chunked_req`` (around)             | hook   | end a later chunk on the branch |
| ``runtime_context.mamba_track_grid`` (around)         | hook   | pages > 1: track at every page  |
| ``ScheduleBatch.prepare_for_decode`` (before)         | hook   | where the next state is tracked |
| ``Scheduler.run_batch`` (before)                      | hook   | what each tracking slot holds   |
| ``PrefillAdder._commit_prefill_admission`` (after)    | hook   | observed: what a request reuses |
| ``SchedulerInternalStateController``:                 |        |                                 |
| ``_update_handlers`` (after)                          | hook   | policy and alpha while serving  |
| ``runtime_context.publish`` (after)                   | hook   | the hooks below, if asked for   |
| ``KVCacheConfigurator._handle_max_mamba_cache``       | hook   | slots become the store's bytes  |
| ``KVCacheConfigurator._calculate_mamba_ratio``        | hook   | slots that a request needs then |
| ``maybe_init_int8_mamba_checkpoint_pool`` (around)    | hook   | build the store                 |
| ``SchedulerWeightUpdaterManager``:                    |        |                                 |
| ``release_memory_occupation`` (before)                | hook   | a store ends its work first     |
| ``io_struct.hook_custom_types``, a control request    | public | the page: ask the scheduler     |
| ``Scheduler.init_request_dispatcher`` (after)         | hook   | the page: answer                |
| ``http_server.set_global_state`` (after)              | hook   | the page: its routes            |

The hooks on the scheduler are applied only in a process that builds our cache, those on its
memory only where the settings ask for a store of checkpoints, those of the page where they ask
for it. What
SGLang's functions must look like for them is checked once the backend is chosen,
before a model is loaded. On a machine without an accelerator ``cpu.install`` adds the
recurrent operations.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from packaging.specifiers import SpecifierSet

from sglang_marconi import cpu
from sglang_marconi.seams import IncompatibleSGLang, require_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from sglang.srt.mem_cache.base_prefix_cache import BasePrefixCache
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.registry import TreeCacheBuildContext
    from sglang.srt.mem_cache.unified_cache.components import ComponentType, TreeComponent
    from sglang.srt.mem_cache.unified_cache.unified_tree_core_interface import (
        UnifiedTreeCoreInterface,
    )

    from sglang_marconi.config import Settings

BACKEND = "marconi"
SUPPORTED_SGLANG = SpecifierSet(">=0.5.23,<0.5.24")

_ADDER = "sglang.srt.managers.schedule_policy.PrefillAdder"
_COMPONENTS = "sglang.srt.mem_cache.unified_cache.components"
_MAMBA = f"{_COMPONENTS}.mamba.MambaComponent"
_FULL = f"{_COMPONENTS}.full.FullComponent"
_TREE = "sglang.srt.mem_cache.unified_cache.unified_tree_core.UnifiedTreeCore"
_STATES = "sglang.srt.mem_cache.unified_cache.unified_tree_core.UnifiedLRUList"
_TRACK_GRID = "sglang.srt.runtime_context.mamba_track_grid"
_DECODE = "sglang.srt.managers.schedule_batch.ScheduleBatch.prepare_for_decode"
_RUN_BATCH = "sglang.srt.managers.scheduler.Scheduler.run_batch"
_UPDATES = (
    "sglang.srt.managers.scheduler_components.internal_state."
    "SchedulerInternalStateController._update_handlers"
)
_PUBLISH = "sglang.srt.runtime_context.publish"
_CONFIGURATOR = "sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator"
_CHECKPOINT_POOL = (
    "sglang.srt.mem_cache.mamba_checkpoint_pool.maybe_init_int8_mamba_checkpoint_pool"
)
_COMMIT_ADMISSION = f"{_ADDER}._commit_prefill_admission"
_DISPATCHER = "sglang.srt.managers.scheduler.Scheduler.init_request_dispatcher"
_HTTP = "sglang.srt.entrypoints.http_server"
_KV_EVENTS = "sglang.srt.mem_cache.events.KVCacheEventRecorder"
_RELEASE_MEMORY = (
    "sglang.srt.managers.scheduler_components.weight_updater."
    "SchedulerWeightUpdaterManager.release_memory_occupation"
)
_RESOLVE = "sglang.srt.server_args.ServerArgs.resolve_once"

# SGLang's functions that we hook or override, with the parameters we rely on.
SEAMS: dict[str, tuple[str, ...]] = {
    _RESOLVE: ("self",),
    _TRACK_GRID: ("tree_page",),
    _DECODE: ("self",),
    _RUN_BATCH: ("self", "batch", "pp_proxy_tensors"),
    _UPDATES: ("self",),
    "sglang.srt.managers.scheduler_components.internal_state._UpdateHandler": (
        "validate",
        "apply",
    ),
    _PUBLISH: ("server_args", "role", "hf_config", "ranks"),
    f"{_CONFIGURATOR}._handle_max_mamba_cache": ("self", "total_rest_memory"),
    f"{_CONFIGURATOR}._calculate_mamba_ratio": ("self",),
    "sglang.srt.runtime_context.derive_attn_tp_size": ("tp_size", "attn_cp_size", "attn_dp_size"),
    _CHECKPOINT_POOL: ("mamba_size", "cache_params", "mamba_layer_ids", "device"),
    f"{_ADDER}._select_prefill_admission": (
        "self",
        "req",
        "total_tokens",
        "host_hit_length",
        "swa_host_hit_length",
        "truncation_align_size",
        "has_chunked_req",
    ),
    f"{_ADDER}.add_chunked_req": ("self", "req"),
    _RELEASE_MEMORY: ("self", "recv_req"),
    "sglang.srt.mem_cache.memory_pool.MambaPool.get_contiguous_buf_infos": ("self",),
    _COMMIT_ADMISSION: ("self", "req", "admission", "mamba_gap_reserve"),
    _DISPATCHER: ("self",),
    f"{_HTTP}.set_global_state": ("global_state",),
    "sglang.srt.managers.io_struct.hook_custom_types": ("new_types",),
    "sglang.srt.managers.communicator.FanOutCommunicator": ("send", "fan_out", "mode"),
    f"{_KV_EVENTS}.enqueue": ("self", "event"),
    f"{_KV_EVENTS}._node_event_hash_values": ("self", "node"),
    f"{_KV_EVENTS}._namespace_seed": ("self", "node"),
    "sglang.srt.managers.schedule_policy._PrefillAdmission": (
        "prefix_len",
        "extend_len",
        "max_new_tokens",
        "is_chunked",
        "replay_len",
    ),
    f"{_MAMBA}.finalize_match_result_in_tree_core": (
        "self",
        "result",
        "params",
        "value_chunks",
        "best_value_len",
    ),
    f"{_MAMBA}.commit_insert_component_data": (
        "self",
        "node",
        "is_new_leaf",
        "params",
        "result",
        "cache_actions",
    ),
    f"{_MAMBA}.prepare_for_caching_req": (
        "self",
        "req",
        "insert_params",
        "token_ids_len",
        "is_finished",
    ),
    f"{_MAMBA}._select_finished_checkpoint": ("self", "req", "token_ids_len"),
    f"{_MAMBA}.cleanup_after_caching_req": (
        "self",
        "req",
        "is_finished",
        "insert_result",
        "insert_params",
    ),
    f"{_MAMBA}.value_len": ("self", "node"),
    f"{_MAMBA}.reclaimable_value_len": ("self", "node"),
    f"{_MAMBA}.finalize_match_result_in_cache": ("self", "params", "result"),
    f"{_MAMBA}._commit_int8_checkpoint": ("self", "active_slots"),
    f"{_MAMBA}._free_mamba_value": ("self", "mamba_value"),
    f"{_MAMBA}.refresh_lru": ("self", "phase", "node", "root_node"),
    f"{_MAMBA}.acquire_component_lock": ("self", "node", "result", "lock_host"),
    f"{_MAMBA}.release_component_lock": ("self", "node", "params", "lock_host"),
    f"{_MAMBA}._refresh_session_partition": ("self", "node"),
    **{
        target: parameters
        for component in (_MAMBA, _FULL)
        for target, parameters in {
            f"{component}._evict_device_start": ("self", "request_cnt"),
            f"{component}._evict_device_next_node": (
                "self",
                "tracker",
                "device_frees",
                "host_frees",
                "cache_actions",
            ),
            f"{component}._evict_device_end": ("self",),
        }.items()
    },
    f"{_FULL}._dec_session_coverage": ("self", "session_id", "leaf"),
    f"{_FULL}._advance_session_coverage": ("self", "session_id", "leaf", "old_ancestor"),
    f"{_FULL}._recede_session_coverage": ("self", "session_id", "leaf", "fallback"),
    f"{_TREE}.reset": ("self",),
    f"{_TREE}.adjust_component_size": ("self", "node_id", "component_type", "delta"),
    f"{_TREE}.begin_insert": ("self", "params"),
    f"{_TREE}._split_node": ("self", "key", "child", "split_len"),
    f"{_TREE}._remove_leaf_from_parent": ("self", "node"),
    f"{_TREE}._evict_component_and_detach_lru": (
        "self",
        "node",
        "comp",
        "device_frees",
        "host_frees",
        "cache_actions",
        "target",
        "tracker",
    ),
    f"{_STATES}.insert_mru": ("self", "node"),
    f"{_STATES}.remove_node": ("self", "node"),
    "sglang.srt.mem_cache.registry.create_unified_radix_cache": ("ctx", "cache_class"),
    "sglang.srt.mem_cache.unified_radix_cache.UnifiedRadixCache.evict_for_alloc": (
        "self",
        "params",
        "allocation_reclaim_satisfied",
    ),
    "sglang.srt.mem_cache.memory_pool.HybridReqToTokenPool.free_mamba_cache": (
        "self",
        "req",
        "mamba_ping_pong_track_buffer_to_keep",
    ),
}


def register() -> None:
    """Entry point of SGLang's plugin loader.

    Runs in every SGLang process before arguments are parsed. With a SGLang that this version
    does not fit, nothing is registered but the error that choosing the backend gives.
    """
    try:
        check_version()
        cpu.install()
    except IncompatibleSGLang as error:
        _hook_after_resolution(_Refuse(error))
        return
    from sglang.srt.mem_cache.registry import register_radix_cache_backend
    from sglang.srt.mem_cache.unified_cache.tree_core_registry import register_tree_core_backend

    from sglang_marconi.cache import TREE_CORE

    register_radix_cache_backend(BACKEND, build_cache)
    register_tree_core_backend(TREE_CORE, build_tree_core)
    _hook_after_resolution(_check_if_chosen)
    _hook_after(_PUBLISH, _hook_if_chosen)


def check_version() -> None:
    """Check the version of the installed SGLang.

    Raises:
        IncompatibleSGLang: names both versions.
    """
    found = version("sglang")
    if not SUPPORTED_SGLANG.contains(found, prereleases=True):
        raise IncompatibleSGLang(
            f"--radix-cache-backend marconi: this sglang-marconi fits SGLang {SUPPORTED_SGLANG}, "
            f"but {found} is installed"
        )


def check_seams() -> None:
    """Check every function of SGLang that we patch or override.

    Raises:
        IncompatibleSGLang: names the first one that differs, and how.
    """
    for difference in seam_differences():
        raise difference


def seam_differences() -> Iterator[IncompatibleSGLang]:
    """Every function of SGLang that is not what our code was written against."""
    for target, names in SEAMS.items():
        try:
            require_parameters(target, names)
        except IncompatibleSGLang as difference:
            yield difference


def build_cache(ctx: TreeCacheBuildContext) -> BasePrefixCache:
    """The factory behind ``--radix-cache-backend marconi``; runs in the scheduler process."""
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.mem_cache.registry import create_unified_radix_cache
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from sglang_marconi.cache.branch_cut import cut_admission, cut_continuation
    from sglang_marconi.cache.live_policy import LivePolicy
    from sglang_marconi.cache.live_settings import add_updates
    from sglang_marconi.cache.pricing import price_config, with_pools
    from sglang_marconi.cache.radix_cache import MarconiRadixCache, choose_components, has_store
    from sglang_marconi.cache.tracked_states import TrackedStates
    from sglang_marconi.config import parse_settings
    from sglang_marconi.observe.build import Listeners
    from sglang_marconi.observe.requests import Admissions

    params = ctx.params
    settings = parse_settings(params.eviction_policy_config)
    # SGLang's own policies would reject our keys.
    params.eviction_policy_config = None
    ranks = attention_ranks(resolving_view(ctx.server_args))
    cost = price_config(ctx.model_config.hf_config, settings, tp_size=ranks)
    pool = params.req_to_token_pool
    if has_store(pool):
        pool.mamba_ckpt_pool.attach(pool.mamba_pool, stream_of_requests(ctx))
        HookRegistry.register(_RELEASE_MEMORY, pool.mamba_ckpt_pool.release, HookType.BEFORE)
    cost = with_pools(cost, params)
    listeners = Listeners(settings, params)
    policy = LivePolicy(settings, cost, params, listeners.observer)
    tracked = TrackedStates()
    choose_components(params, policy.eviction, policy.tuning, listeners.observer, tracked=tracked)
    HookRegistry.register(f"{_ADDER}._select_prefill_admission", cut_admission, HookType.AROUND)
    HookRegistry.register(f"{_ADDER}.add_chunked_req", cut_continuation, HookType.AROUND)
    HookRegistry.register(_TRACK_GRID, _track_every_page, HookType.AROUND)
    HookRegistry.register(_DECODE, tracked.before_decode, HookType.BEFORE)
    HookRegistry.register(_RUN_BATCH, tracked.launched, HookType.BEFORE)
    HookRegistry.register(_UPDATES, partial(add_updates, policy), HookType.AFTER)
    if listeners.observer is not None:
        admissions = Admissions(listeners.observer)
        HookRegistry.register(_COMMIT_ADMISSION, admissions.admitted, HookType.AFTER)
    HookRegistry.apply_hooks()
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


def attention_ranks(args: Any) -> int:
    """Over how many ranks heads and channels are divided.

    ``args``: SGLang's arguments, before or after their resolution, which turns ``--dp-size N
    --enable-dp-attention`` into ``--attn-dp-size N``.
    """
    from sglang.srt.runtime_context import derive_attn_tp_size

    replicas = args.attn_dp_size
    if args.enable_dp_attention and replicas == 1:
        replicas = args.dp_size
    ranks: int = derive_attn_tp_size(
        tp_size=args.tp_size, attn_cp_size=args.attn_cp_size, attn_dp_size=replicas
    )
    return ranks


def _track_every_page(original: Callable[[int], int], tree_page: int) -> int:
    """With larger pages, keep the state of the last whole page rather than of a coarser grid.

    While decoding any token can be tracked; SGLang's grid is a prefill kernel's.
    """
    return tree_page if tree_page > 1 else original(tree_page)


def _hook_after_resolution(hook: Callable[[None, Any], None]) -> None:
    _hook_after(_RESOLVE, hook)


def _hook_after(target: str, hook: Callable[..., None]) -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(target, hook, HookType.AFTER)


def _hook_if_chosen(_result: object, server_args: Any, *, role: str, **_: Any) -> None:
    """In a process that knows its role, and is about to build what has to do with the cache."""
    if server_args.radix_cache_backend != BACKEND:
        return
    from sglang_marconi.config import parse_settings

    settings = parse_settings(server_args.radix_eviction_policy_config)
    if settings.has_store and role == "scheduler":
        _hook_memory(settings)
    if settings.inspect:
        _hook_inspection(role)


def _hook_memory(settings: Settings) -> None:
    """The hooks of ``cache.memory_split``."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from sglang_marconi.cache.memory_split import StoreBuilder

    store = StoreBuilder(settings)
    for target, hook in {
        f"{_CONFIGURATOR}._handle_max_mamba_cache": store.split,
        f"{_CONFIGURATOR}._calculate_mamba_ratio": store.slots_of_a_request,
        _CHECKPOINT_POOL: store.build_pool,
    }.items():
        HookRegistry.register(target, hook, HookType.AROUND)
    HookRegistry.apply_hooks()


def _hook_inspection(role: str) -> None:
    """The page ``/marconi``: who asks, who passes it on, who answers."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from sglang_marconi.observe.inspection import exchange

    exchange.teach_types()
    if role == "scheduler":
        HookRegistry.register(_DISPATCHER, exchange.answer, HookType.AFTER)
    elif role == "tokenizer":
        exchange.teach_tokenizer()
        # Not so in a process that serves no HTTP, such as an Engine's.
        if _HTTP in sys.modules:
            HookRegistry.register(f"{_HTTP}.set_global_state", _add_routes, HookType.AFTER)
    HookRegistry.apply_hooks()


def _add_routes(_result: None, state: Any) -> None:
    from sglang_marconi.observe.inspection import exchange
    from sglang_marconi.observe.inspection.routes import add_routes

    add_routes(sys.modules[_HTTP].app, partial(exchange.ask, state.tokenizer_manager))


def _check_if_chosen(_result: None, server_args: Any) -> None:
    from sglang.srt.arg_groups.model_override_base import model_config_of
    from sglang.srt.arg_groups.overrides import resolving_view

    from sglang_marconi.cache.pricing import price_config
    from sglang_marconi.compatibility import check_arguments
    from sglang_marconi.config import parse_settings

    args = resolving_view(server_args)
    if args.radix_cache_backend == BACKEND:
        check_seams()
        check_arguments(args)
        settings = parse_settings(args.radix_eviction_policy_config)
        price_config(
            model_config_of(server_args).hf_config, settings, tp_size=attention_ranks(args)
        )


class _Refuse:
    """Raises an earlier error, once the backend that it concerns is chosen."""

    def __init__(self, error: IncompatibleSGLang) -> None:
        self.error = error

    def __call__(self, _result: None, server_args: Any) -> None:
        if server_args.radix_cache_backend == BACKEND:
            raise self.error
