"""Which leaf's KV goes when KV is short, on SGLang's tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sglang.srt.mem_cache.unified_cache.components.full import FullComponent

from sglang_marconi.events import Decision, Evicted, What, timed

if TYPE_CHECKING:
    import torch
    from sglang.srt.mem_cache.unified_cache.cache_action import CacheAction, ComponentAction
    from sglang.srt.mem_cache.unified_cache.components import ComponentType
    from sglang.srt.mem_cache.unified_cache.unified_tree_core import UnifiedTreeNode

    from sglang_marconi.cache.tree_core import MarconiTreeCore


class MarconiFullComponent(FullComponent):
    """Evicts the leaf that the policy names, rather than the one used longest ago."""

    tree_core: MarconiTreeCore

    def _evict_device_start(self, request_cnt: int) -> None:
        self._evict_device_request_cnt = request_cnt

    def _evict_device_next_node(
        self,
        tracker: dict[ComponentType, int],
        device_frees: dict[ComponentType, list[torch.Tensor]],
        host_frees: dict[ComponentType, list[torch.Tensor]],
        cache_actions: list[CacheAction | ComponentAction],
    ) -> int | None:
        """The next leaf to evict, as its node id."""
        if tracker[self.component_type] >= self._evict_device_request_cnt:
            return None
        policy, observer = self.tree_core.policy, self.tree_core.observer
        victim = timed(observer, Decision.EVICTION, policy.least_useful_leaf)
        if victim is None:
            return None
        if observer is not None:
            observer.emit(Evicted(victim, What.LEAF, policy.standing_of_leaf(victim)))
        return victim.handle

    def _evict_device_end(self) -> None:
        """Nothing to clear: the policy holds the order."""

    # ---- session references ----

    def _dec_session_coverage(self, session_id: str, leaf: UnifiedTreeNode) -> None:
        super()._dec_session_coverage(session_id, leaf)
        self._report_references(leaf)

    def _advance_session_coverage(
        self, session_id: str, leaf: UnifiedTreeNode, old_ancestor: UnifiedTreeNode | None
    ) -> None:
        super()._advance_session_coverage(session_id, leaf, old_ancestor)
        self._report_references(leaf)

    def _recede_session_coverage(
        self, session_id: str, leaf: UnifiedTreeNode, fallback: UnifiedTreeNode | None
    ) -> None:
        super()._recede_session_coverage(session_id, leaf, fallback)
        self._report_references(leaf)

    def _report_references(self, node: UnifiedTreeNode) -> None:
        """A session's references cover a whole path; of it, only leaves may be evicted."""
        tree = self.tree_core
        while node is not tree.root_node:
            if node in tree.evictable_device_leaves:
                tree.policy.refer_to_kv(tree.prefix(node), self.session_ref(node) > 0)
            node = node.parent
