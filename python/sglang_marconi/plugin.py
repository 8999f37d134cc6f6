"""The one place that touches SGLang's registries and hooks.

| seam of SGLang                                        | kind   | what for                        |
|-------------------------------------------------------|--------|---------------------------------|
| ``register_radix_cache_backend``                      | public | the name ``marconi``            |
| ``CacheInitParams.component_registry_override``       | public | our recurrent-state component   |
| ``ServerArgs.resolve_once`` (after)                   | hook   | refuse bad use before the load  |
| ``PrefillAdder._select_prefill_admission`` (around)   | hook   | end a first chunk on the branch |
| ``PrefillAdder.add_chunked_req`` (around)             | hook   | end a later chunk on the branch |
| ``runtime_context.mamba_track_grid`` (around)         | hook   | pages > 1: track at every page  |

The hooks on the scheduler are applied only in a process that builds our cache. What
SGLang's functions must look like for them is checked once the backend is chosen,
before a model is loaded. On a machine without an accelerator ``cpu.install`` adds the
recurrent operations.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from packaging.specifiers import SpecifierSet

from sglang_marconi import cpu
from sglang_marconi.seams import IncompatibleSGLang, require_parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from sglang.srt.mem_cache.base_prefix_cache import BasePrefixCache
    from sglang.srt.mem_cache.registry import TreeCacheBuildContext

BACKEND = "marconi"
SUPPORTED_SGLANG = SpecifierSet(">=0.5.23,<0.5.24")

_ADDER = "sglang.srt.managers.schedule_policy.PrefillAdder"
_COMPONENT = "sglang.srt.mem_cache.unified_cache.components.mamba.MambaComponent"
_TRACK_GRID = "sglang.srt.runtime_context.mamba_track_grid"
_RESOLVE = "sglang.srt.server_args.ServerArgs.resolve_once"

# SGLang's functions that we hook or override, with the parameters we rely on.
SEAMS: dict[str, tuple[str, ...]] = {
    _RESOLVE: ("self",),
    _TRACK_GRID: ("tree_page",),
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
    "sglang.srt.managers.schedule_policy._PrefillAdmission": (
        "prefix_len",
        "extend_len",
        "max_new_tokens",
        "is_chunked",
        "replay_len",
    ),
    f"{_COMPONENT}.finalize_match_result_in_tree_core": (
        "self",
        "result",
        "params",
        "value_chunks",
        "best_value_len",
    ),
    f"{_COMPONENT}.commit_insert_component_data": (
        "self",
        "node",
        "is_new_leaf",
        "params",
        "result",
        "cache_actions",
    ),
    f"{_COMPONENT}.prepare_for_caching_req": (
        "self",
        "req",
        "insert_params",
        "token_ids_len",
        "is_finished",
    ),
    f"{_COMPONENT}.cleanup_after_caching_req": (
        "self",
        "req",
        "is_finished",
        "insert_result",
        "insert_params",
    ),
    "sglang.srt.mem_cache.registry.create_unified_radix_cache": ("ctx", "cache_class"),
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

    register_radix_cache_backend(BACKEND, build_cache)
    _hook_after_resolution(_check_if_chosen)


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
    for target, names in SEAMS.items():
        require_parameters(target, names)


def build_cache(ctx: TreeCacheBuildContext) -> BasePrefixCache:
    """The factory behind ``--radix-cache-backend marconi``; runs in the scheduler process."""
    from sglang.srt.mem_cache.registry import create_unified_radix_cache
    from sglang.srt.mem_cache.unified_cache.components import ComponentType
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from sglang_marconi.cache.branch_cut import cut_admission, cut_continuation
    from sglang_marconi.cache.mamba_component import MarconiMambaComponent
    from sglang_marconi.cache.radix_cache import MarconiRadixCache
    from sglang_marconi.config import parse_settings

    params = ctx.params
    parse_settings(params.eviction_policy_config)
    # SGLang's own policies would reject our keys.
    params.eviction_policy_config = None
    params.component_registry_override = {
        **(params.component_registry_override or {}),
        ComponentType.MAMBA: MarconiMambaComponent,
    }
    HookRegistry.register(f"{_ADDER}._select_prefill_admission", cut_admission, HookType.AROUND)
    HookRegistry.register(f"{_ADDER}.add_chunked_req", cut_continuation, HookType.AROUND)
    HookRegistry.register(_TRACK_GRID, _track_every_page, HookType.AROUND)
    HookRegistry.apply_hooks()
    return create_unified_radix_cache(ctx, cache_class=MarconiRadixCache)


def _track_every_page(original: Callable[[int], int], tree_page: int) -> int:
    """With larger pages, keep the state of the last whole page rather than of a coarser grid.

    While decoding any token can be tracked; SGLang's grid is a prefill kernel's.
    """
    return tree_page if tree_page > 1 else original(tree_page)


def _hook_after_resolution(hook: Callable[[None, Any], None]) -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(_RESOLVE, hook, HookType.AFTER)


def _check_if_chosen(_result: None, server_args: Any) -> None:
    from sglang.srt.arg_groups.overrides import resolving_view

    from sglang_marconi.compatibility import check_arguments

    args = resolving_view(server_args)
    if args.radix_cache_backend == BACKEND:
        check_seams()
        check_arguments(args)


class _Refuse:
    """Raises an earlier error, once the backend that it concerns is chosen."""

    def __init__(self, error: IncompatibleSGLang) -> None:
        self.error = error

    def __call__(self, _result: None, server_args: Any) -> None:
        if server_args.radix_cache_backend == BACKEND:
            raise self.error
