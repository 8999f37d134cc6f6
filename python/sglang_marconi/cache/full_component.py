"""Which leaf's KV goes when KV is short, on SGLang's tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sglang.srt.mem_cache.unified_cache.components.full import FullComponent

from sglang_marconi.cache.ranked_eviction import EvictionStep, RankedEviction
from sglang_marconi.events import What

if TYPE_CHECKING:
    from sglang.srt.mem_cache.unified_cache.unified_tree_core import UnifiedTreeNode

    from sglang_marconi.policy.ledger import PrefixNode


class MarconiFullComponent(RankedEviction, FullComponent):
    """Evicts the leaf that the policy names, rather than the one used longest ago."""

    def _least_useful(self) -> PrefixNode | None:
        return self.tree_core.policy.least_useful_leaf()

    def _give_way(self, victim: PrefixNode, step: EvictionStep) -> int:
        """SGLang evicts leaves itself, with all that they hold."""
        self._report_eviction(victim, What.LEAF, self.tree_core.policy.standing_of_leaf)
        return victim.handle

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
