"""The part of the table that is SGLang's tree: its components, its lists, its cache."""

from __future__ import annotations

from sglang_marconi.seams.seam import Kind, Seam

_CACHE = "sglang.srt.mem_cache.unified_radix_cache.UnifiedRadixCache"
_UNIFIED = "sglang.srt.mem_cache.unified_cache"
_MAMBA = f"{_UNIFIED}.components.mamba.MambaComponent"
_FULL = f"{_UNIFIED}.components.full.FullComponent"
_TREE = f"{_UNIFIED}.unified_tree_core.UnifiedTreeCore"
_LIST = f"{_UNIFIED}.unified_tree_core.UnifiedLRUList"

_FREES = "tracker, device_frees, host_frees, cache_actions"


def _override(target: str, parameters: str, purpose: str) -> Seam:
    return Seam(target, parameters, Kind.OVERRIDE, purpose)


_STATES = (
    _override(f"{_MAMBA}.__init__", "self, cache, params", "takes the policy and who observes"),
    _override(
        f"{_MAMBA}.finalize_match_result_in_tree_core",
        "self, result, params, value_chunks, best_value_len",
        "where a prompt branches off, to the token or KV page",
    ),
    _override(
        f"{_MAMBA}.finalize_match_result_in_cache",
        "self, params, result",
        "a state to be used comes back from the host",
    ),
    _override(
        f"{_MAMBA}.commit_insert_component_data",
        "self, node, is_new_leaf, params, result, cache_actions",
        "KV may enter the tree without a state",
    ),
    _override(
        f"{_MAMBA}.prepare_for_caching_req",
        "self, req, insert_params, token_ids_len, is_finished",
        "which state becomes a checkpoint",
    ),
    _override(
        f"{_MAMBA}._select_finished_checkpoint",
        "self, req, token_ids_len",
        "which tracked state is kept",
    ),
    _override(
        f"{_MAMBA}.cleanup_after_caching_req",
        "self, req, is_finished, insert_result, insert_params",
        "who owns the slots then",
    ),
    _override(
        f"{_MAMBA}._commit_int8_checkpoint",
        "self, active_slots",
        "with a store: a checkpoint of the state in a slot",
    ),
    Seam(
        f"{_MAMBA}._free_mamba_value",
        "self, mamba_value",
        Kind.CALL,
        "with a store: a checkpoint that the tree did not take",
    ),
    _override(f"{_MAMBA}.value_len", "self, node", "a state is one, without asking a tensor"),
    _override(
        f"{_MAMBA}.reclaimable_value_len", "self, node", "with a store: a state is its store pages"
    ),
    _override(
        f"{_MAMBA}.acquire_component_lock",
        "self, node, result, lock_host",
        "the policy hears of locks",
    ),
    _override(
        f"{_MAMBA}.release_component_lock",
        "self, node, params, lock_host",
        "the policy hears of locks that end",
    ),
    _override(
        f"{_MAMBA}._refresh_session_partition",
        "self, node",
        "the policy hears of sessions that refer to a state",
    ),
)

_EVICTION = tuple(
    seam
    for component in (_MAMBA, _FULL)
    for seam in (
        _override(f"{component}._evict_device_start", "self, request_cnt", "how much is to go"),
        _override(
            f"{component}._evict_device_next_node", f"self, {_FREES}", "what goes: the policy says"
        ),
        _override(f"{component}._evict_device_end", "self", "nothing: the policy holds the order"),
        Seam(
            f"{component}._evict_device_request_cnt",
            None,
            Kind.WRITE,
            "how much is to go, where SGLang keeps it",
        ),
    )
)

_KV = (
    _override(
        f"{_FULL}._dec_session_coverage",
        "self, session_id, leaf",
        "the policy hears of sessions that refer to a leaf",
    ),
    _override(
        f"{_FULL}._advance_session_coverage", "self, session_id, leaf, old_ancestor", "likewise"
    ),
    _override(f"{_FULL}._recede_session_coverage", "self, session_id, leaf, fallback", "likewise"),
)

_NODES = (
    _override(f"{_TREE}.__init__", "self, params, components", "takes policy and observer"),
    _override(f"{_TREE}.reset", "self", "the policy begins anew; our list and set of nodes"),
    _override(f"{_TREE}.begin_insert", "self, params", "a tick of the policy's clock"),
    _override(f"{_TREE}._split_node", "self, key, child, split_len", "the policy hears of splits"),
    _override(f"{_TREE}._remove_leaf_from_parent", "self, node", "the policy hears of removals"),
    Seam(
        f"{_TREE}._evict_component_and_detach_lru",
        "self, node, comp, device_frees, host_frees, cache_actions, target, tracker",
        Kind.CALL,
        "evict the state that the policy named",
    ),
    Seam(
        f"{_TREE}.adjust_component_size",
        "self, node_id, component_type, delta",
        Kind.CALL,
        "with a store: a state fills fewer store pages, or more",
    ),
    Seam(
        f"{_TREE}._session_lru_predicate",
        "self, ct",
        Kind.CALL,
        "our list of states has sessions apart, as SGLang's has",
    ),
    Seam(f"{_TREE}._collect_all_nodes", "self", Kind.CALL, "the check of an idle server"),
    _override(
        f"{_TREE}.sanity_check",
        "self, ongoing_write_through, ongoing_load_back",
        "the check of an idle server: policy and store, too",
    ),
    _override(
        f"{_LIST}.__init__",
        "self, component_type, tree_components, use_host_ptr, is_referenced",
        "belongs to our tree",
    ),
    _override(f"{_LIST}.insert_mru", "self, node", "the policy hears of states"),
    _override(f"{_LIST}.insert_after", "self, prev_node, node", "an error: not used for states"),
    _override(f"{_LIST}.remove_node", "self, node", "the policy hears of states that go"),
)

_CACHES = (
    _override(f"{_CACHE}.match_prefix", "self, params", "observed: how long it takes"),
    _override(
        f"{_CACHE}.claim_kv_row", "self, req", "a session's request leaves no states of its passes"
    ),
    _override(
        f"{_CACHE}.evict_for_alloc",
        "self, params, allocation_reclaim_satisfied",
        "with a store: its states are no slots; called for the slot of a branch",
    ),
)

TREE_SEAMS = (*_STATES, *_EVICTION, *_KV, *_NODES, *_CACHES)
