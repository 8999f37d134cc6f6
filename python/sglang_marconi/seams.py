"""What of SGLang we hook or override, and checks that it is what our code was written against."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

ADDER = "sglang.srt.managers.schedule_policy.PrefillAdder"
COMPONENTS = "sglang.srt.mem_cache.unified_cache.components"
MAMBA = f"{COMPONENTS}.mamba.MambaComponent"
FULL = f"{COMPONENTS}.full.FullComponent"
TREE = "sglang.srt.mem_cache.unified_cache.unified_tree_core.UnifiedTreeCore"
STATES = "sglang.srt.mem_cache.unified_cache.unified_tree_core.UnifiedLRUList"
TRACK_GRID = "sglang.srt.runtime_context.mamba_track_grid"
DECODE = "sglang.srt.managers.schedule_batch.ScheduleBatch.prepare_for_decode"
RUN_BATCH = "sglang.srt.managers.scheduler.Scheduler.run_batch"
UPDATES = (
    "sglang.srt.managers.scheduler_components.internal_state."
    "SchedulerInternalStateController._update_handlers"
)
PUBLISH = "sglang.srt.runtime_context.publish"
CONFIGURATOR = "sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator"
CHECKPOINT_POOL = "sglang.srt.mem_cache.mamba_checkpoint_pool.maybe_init_int8_mamba_checkpoint_pool"
COMMIT_ADMISSION = f"{ADDER}._commit_prefill_admission"
DISPATCHER = "sglang.srt.managers.scheduler.Scheduler.init_request_dispatcher"
HTTP = "sglang.srt.entrypoints.http_server"
KV_EVENTS = "sglang.srt.mem_cache.events.KVCacheEventRecorder"
RELEASE_MEMORY = (
    "sglang.srt.managers.scheduler_components.weight_updater."
    "SchedulerWeightUpdaterManager.release_memory_occupation"
)
RESOLVE = "sglang.srt.server_args.ServerArgs.resolve_once"

# SGLang's functions that we hook or override, with the parameters we rely on.
SEAMS: dict[str, tuple[str, ...]] = {
    RESOLVE: ("self",),
    TRACK_GRID: ("tree_page",),
    DECODE: ("self",),
    RUN_BATCH: ("self", "batch", "pp_proxy_tensors"),
    UPDATES: ("self",),
    "sglang.srt.managers.scheduler_components.internal_state._UpdateHandler": (
        "validate",
        "apply",
    ),
    PUBLISH: ("server_args", "role", "hf_config", "ranks"),
    f"{CONFIGURATOR}._handle_max_mamba_cache": ("self", "total_rest_memory"),
    f"{CONFIGURATOR}._calculate_mamba_ratio": ("self",),
    "sglang.srt.runtime_context.derive_attn_tp_size": ("tp_size", "attn_cp_size", "attn_dp_size"),
    CHECKPOINT_POOL: ("mamba_size", "cache_params", "mamba_layer_ids", "device"),
    f"{ADDER}._select_prefill_admission": (
        "self",
        "req",
        "total_tokens",
        "host_hit_length",
        "swa_host_hit_length",
        "truncation_align_size",
        "has_chunked_req",
    ),
    f"{ADDER}.add_chunked_req": ("self", "req"),
    RELEASE_MEMORY: ("self", "recv_req"),
    "sglang.srt.mem_cache.memory_pool.MambaPool.get_contiguous_buf_infos": ("self",),
    COMMIT_ADMISSION: ("self", "req", "admission", "mamba_gap_reserve"),
    DISPATCHER: ("self",),
    f"{HTTP}.set_global_state": ("global_state",),
    "sglang.srt.managers.io_struct.hook_custom_types": ("new_types",),
    "sglang.srt.managers.communicator.FanOutCommunicator": ("send", "fan_out", "mode"),
    f"{KV_EVENTS}.enqueue": ("self", "event"),
    f"{KV_EVENTS}._node_event_hash_values": ("self", "node"),
    f"{KV_EVENTS}._namespace_seed": ("self", "node"),
    "sglang.srt.managers.schedule_policy._PrefillAdmission": (
        "prefix_len",
        "extend_len",
        "max_new_tokens",
        "is_chunked",
        "replay_len",
    ),
    f"{MAMBA}.finalize_match_result_in_tree_core": (
        "self",
        "result",
        "params",
        "value_chunks",
        "best_value_len",
    ),
    f"{MAMBA}.commit_insert_component_data": (
        "self",
        "node",
        "is_new_leaf",
        "params",
        "result",
        "cache_actions",
    ),
    f"{MAMBA}.prepare_for_caching_req": (
        "self",
        "req",
        "insert_params",
        "token_ids_len",
        "is_finished",
    ),
    f"{MAMBA}._select_finished_checkpoint": ("self", "req", "token_ids_len"),
    f"{MAMBA}.cleanup_after_caching_req": (
        "self",
        "req",
        "is_finished",
        "insert_result",
        "insert_params",
    ),
    f"{MAMBA}.value_len": ("self", "node"),
    f"{MAMBA}.reclaimable_value_len": ("self", "node"),
    f"{MAMBA}.finalize_match_result_in_cache": ("self", "params", "result"),
    f"{MAMBA}._commit_int8_checkpoint": ("self", "active_slots"),
    f"{MAMBA}._free_mamba_value": ("self", "mamba_value"),
    f"{MAMBA}.refresh_lru": ("self", "phase", "node", "root_node"),
    f"{MAMBA}.acquire_component_lock": ("self", "node", "result", "lock_host"),
    f"{MAMBA}.release_component_lock": ("self", "node", "params", "lock_host"),
    f"{MAMBA}._refresh_session_partition": ("self", "node"),
    **{
        target: parameters
        for component in (MAMBA, FULL)
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
    f"{FULL}._dec_session_coverage": ("self", "session_id", "leaf"),
    f"{FULL}._advance_session_coverage": ("self", "session_id", "leaf", "old_ancestor"),
    f"{FULL}._recede_session_coverage": ("self", "session_id", "leaf", "fallback"),
    f"{TREE}.reset": ("self",),
    f"{TREE}.adjust_component_size": ("self", "node_id", "component_type", "delta"),
    f"{TREE}.begin_insert": ("self", "params"),
    f"{TREE}._split_node": ("self", "key", "child", "split_len"),
    f"{TREE}._remove_leaf_from_parent": ("self", "node"),
    f"{TREE}._collect_all_nodes": ("self",),
    f"{TREE}.sanity_check": ("self", "ongoing_write_through", "ongoing_load_back"),
    f"{TREE}._evict_component_and_detach_lru": (
        "self",
        "node",
        "comp",
        "device_frees",
        "host_frees",
        "cache_actions",
        "target",
        "tracker",
    ),
    f"{STATES}.insert_mru": ("self", "node"),
    f"{STATES}.remove_node": ("self", "node"),
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


class IncompatibleSGLang(RuntimeError):
    """The installed SGLang is not one that this version of sglang-marconi fits."""


def resolve(target: str) -> Any:
    """What a dotted path names in SGLang.

    Raises:
        IncompatibleSGLang: it names nothing.
    """
    try:
        return pkgutil.resolve_name(target)
    except (ImportError, AttributeError) as error:
        raise IncompatibleSGLang(
            f"sglang-marconi needs {target}, which this SGLang does not have: {error}"
        ) from error


def require_parameters(target: str, names: tuple[str, ...], *, exact: bool = True) -> None:
    """Compare a function of SGLang with the one our code was written against.

    Args:
        target: dotted path of the function.
        names: its parameters, in order.
        exact: whether further parameters at the end are a difference too.

    Raises:
        IncompatibleSGLang: it does not exist, or its parameters differ.
    """
    function = resolve(target)
    try:
        found = tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise IncompatibleSGLang(
            f"sglang-marconi needs the parameters of {target}, which cannot be read: {error}"
        ) from error
    if (found if exact else found[: len(names)]) != names:
        raise IncompatibleSGLang(
            f"sglang-marconi needs {target} with parameters ({', '.join(names)}), "
            f"but this SGLang's has ({', '.join(found)})"
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
