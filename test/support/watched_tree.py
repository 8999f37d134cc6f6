"""Our tree, watched: what is evicted from it, in order, and where a prefix stands."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import mock

from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.unified_cache import tree_core_registry
from sglang.srt.mem_cache.unified_cache.components import ComponentType, EvictLayer
from sglang.test.kits.unified_radix_cache import fixtures
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang.test.kits.unified_radix_cache.unified_tree_core_inspector import (
    UnifiedTreeCoreInspector,
)
from sglang_marconi.cache import TREE_CORE
from sglang_marconi.cache.radix_cache import MarconiRadixCache, choose_components
from sglang_marconi.cache.tracked_states import TrackedStates
from sglang_marconi.cache.tree_core import MarconiTreeCore
from sglang_marconi.events import Observer
from sglang_marconi.policy.eviction import EvictionPolicy

FULL, MAMBA = ComponentType.FULL, ComponentType.MAMBA

Tokens = tuple[int, ...]


class Evicted(NamedTuple):
    """What left the tree: a node's state alone, or a leaf with its KV and state."""

    leaf: bool
    prefix: Tokens


class WatchedTree(UnifiedTreeCoreInspector, MarconiTreeCore):
    """Our tree, noting what is evicted from it, in order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.evicted: list[Evicted] = []
        super().__init__(*args, **kwargs)

    def tokens(self, node: Any) -> Tokens:
        """The whole prefix that ends at ``node``."""
        tokens: Tokens = ()
        while node is not self.root_node:
            tokens = (*node.key.raw_token_ids(), *tokens)
            node = node.parent
        return tokens

    def node_of(self, tokens: Tokens) -> Any:
        """The node at which this prefix ends."""
        return next(node for node in self._collect_all_nodes() if self.tokens(node) == tokens)

    def _evict_component_and_detach_lru(
        self, node: Any, comp: Any, *args: Any, **kwargs: Any
    ) -> tuple[int, int]:
        # A leaf that goes loses its state in all layers.
        if comp.component_type is MAMBA and kwargs["target"] is EvictLayer.DEVICE:
            self.evicted.append(Evicted(False, self.tokens(node)))
        return super()._evict_component_and_detach_lru(node, comp, *args, **kwargs)

    def _remove_leaf_from_parent(self, node: Any) -> None:
        self.evicted.append(Evicted(True, self.tokens(node)))
        super()._remove_leaf_from_parent(node)


def build_watched_cache(
    cfg: CacheConfig,
    policy: EvictionPolicy,
    observer: Observer | None = None,
    *,
    tracked: TrackedStates | None = None,
) -> tuple[Any, Any, Any]:
    """A cache as SGLang's kits build it, with our components and a tree that is watched.

    With an observer it records KV events, too.

    Returns the cache, its allocator of KV and its pool of requests and states.
    """

    def build(params: CacheInitParams) -> MarconiRadixCache:
        params.enable_kv_cache_events = observer is not None
        choose_components(params, policy, observer=observer, tracked=tracked)
        return MarconiRadixCache(params=params)

    registry = {TREE_CORE: WatchedTree}
    with (
        mock.patch.dict(tree_core_registry._TREE_CORE_REGISTRY, registry),
        mock.patch.multiple(
            fixtures,
            selected_tree_core_test_backend=lambda: TREE_CORE,
            UnifiedRadixCache=build,
            get_device=lambda: "cpu",
        ),
    ):
        return fixtures.build_fixture(cfg)
