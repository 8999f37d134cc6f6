"""SGLang's tree, as ``policy.check`` compares it with the policy's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sglang.srt.mem_cache.unified_cache.components import ComponentType

from sglang_marconi.policy.check import OwnersNode, OwnersTotals, check_policy, check_tree

if TYPE_CHECKING:
    from sglang.srt.mem_cache.unified_cache.unified_tree_core import UnifiedTreeCore

    from sglang_marconi.policy.eviction import EvictionPolicy


def check(tree: UnifiedTreeCore, policy: EvictionPolicy) -> None:
    """Check that the tree, the policy's nodes and its rankings agree; between two requests' steps.

    Raises:
        Disagreement: names the first difference.
    """
    check_policy(policy)
    tokens = tree.component_evictable_size(ComponentType.FULL)
    tokens += tree.component_protected_size(ComponentType.FULL)
    states = tree.components_by_type[ComponentType.MAMBA]
    check_tree(
        policy, _nodes(tree, policy.root.handle), OwnersTotals(tokens, states.held_by_form())
    )


def _nodes(tree: UnifiedTreeCore, root: int) -> Iterator[OwnersNode]:
    """All nodes but the root, which the policy knows as ``root``; those above first."""
    states = tree.components_by_type[ComponentType.MAMBA]
    depths = {tree.root_node.id: 0}
    for node in tree._collect_all_nodes():
        if node is tree.root_node:
            continue
        above = node.parent
        depths[node.id] = depths[above.id] + len(node.key)
        kv, state = (
            node.component_data[component]
            for component in (ComponentType.FULL, ComponentType.MAMBA)
        )
        yield OwnersNode(
            handle=node.id,
            parent=root if above is tree.root_node else above.id,
            depth=depths[node.id],
            has_state=state.value is not None,
            form=0 if state.value is None else states.form_of(state.value),
            state_in_use=state.lock_ref > 0,
            state_referenced=state.session_ref > 0,
            leaf_offered=node in tree.evictable_device_leaves,
            kv_referenced=kv.session_ref > 0,
        )
