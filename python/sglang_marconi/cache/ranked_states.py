"""States in SGLang's tree that go as the eviction policy says, which hears of uses and locks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.mem_cache.unified_cache.components import (
    EvictLayer,
    MambaComponent,
)
from sglang.srt.session.streaming_session import is_virtual_node

from sglang_marconi.cache.ranked_eviction import EvictionStep, RankedEviction
from sglang_marconi.events import Observer, What
from sglang_marconi.policy.eviction import EvictionPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from sglang.srt.mem_cache.base_prefix_cache import DecLockRefParams, IncLockRefResult
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.unified_cache.unified_tree_core import UnifiedTreeNode
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    from sglang_marconi.policy.ledger import PrefixNode
    from sglang_marconi.policy.ranking import Standing


class RankedStates(RankedEviction, MambaComponent):
    """Which state goes is up to ``policy``, the cache's one eviction policy.

    ``observer`` hears of what happens, if anybody does; the tree takes both from here.
    """

    def __init__(
        self,
        cache: UnifiedRadixCache,
        params: CacheInitParams,
        *,
        policy: EvictionPolicy,
        observer: Observer | None,
    ) -> None:
        super().__init__(cache, params)
        self.policy = policy
        self.observer = observer

    def value_len(self, node: UnifiedTreeNode) -> int:
        # A state is one slot; SGLang would ask the tensor that names it.
        return int(node.component_data[self.component_type].value is not None)

    # ---- what is held, to be checked ----

    def form_of(self, _state: torch.Tensor) -> int:
        """The number of the form that a state of the tree is in."""
        return 0

    def held_by_form(self) -> list[int]:
        """How many states are held, by form."""
        tree, states = self.tree_core, self.component_type
        return [tree.component_evictable_size(states) + tree.component_protected_size(states)]

    # ---- use and locks, for the policy ----

    def used(self, node_id: Any) -> None:
        """A request is about to be computed from the state at this node, if there is any.

        Its match alone is no use: SGLang matches what waits again and again.
        """
        # What a streaming session goes on from is not in the tree.
        if not is_virtual_node(node_id):
            node = self.tree_core.node_by_id(node_id)
            if self.node_has_component_data(node):
                self.policy.use(self.tree_core.prefix(node))

    def acquire_component_lock(
        self, node: UnifiedTreeNode, result: IncLockRefResult, lock_host: bool = False
    ) -> IncLockRefResult:
        result = super().acquire_component_lock(node, result, lock_host)
        if not lock_host and node is not self.tree_core.root_node:
            self.policy.lock_state(self.tree_core.prefix(node))
        return result

    def release_component_lock(
        self, node: UnifiedTreeNode, params: DecLockRefParams, lock_host: bool = False
    ) -> None:
        super().release_component_lock(node, params, lock_host)
        if lock_host or node is self.tree_core.root_node:
            return
        if node.component_data[self.component_type].lock_ref == 0:
            self.policy.unlock_state(self.tree_core.prefix(node))

    def _refresh_session_partition(self, node: UnifiedTreeNode) -> None:
        super()._refresh_session_partition(node)
        self.policy.refer_to_state(self.tree_core.prefix(node), self.session_ref(node) > 0)

    # ---- eviction ----

    def _least_useful(self) -> PrefixNode | None:
        return self.policy.least_useful_state()

    def _give_way(self, victim: PrefixNode, step: EvictionStep) -> None:
        """Evict the victim's state. A leaf keeps its KV, which is not what is short."""
        self._evict(victim, self.policy.standing_of_state, step)

    def _evict(
        self,
        victim: PrefixNode,
        standing: Callable[[PrefixNode], Standing | None],
        step: EvictionStep,
    ) -> None:
        """Take the victim's state out of the tree, for how it stands among its like."""
        self._report_eviction(victim, What.STATE, standing)
        self.tree_core._evict_component_and_detach_lru(
            self.tree_core.node_by_id(victim.handle),
            self,
            target=EvictLayer.DEVICE,
            **step._asdict(),
        )
