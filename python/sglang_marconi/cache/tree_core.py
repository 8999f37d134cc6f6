"""SGLang's tree, reporting what happens to it to the eviction policy.

| what the policy must know        | where it is seen                                    |
|----------------------------------|-----------------------------------------------------|
| a node is added                  | the first of the sights below                       |
| a node is split, removed         | the two methods of the tree that do so              |
| a node gets or loses its state   | the tree's list of states (``StateList``)           |
| KV becomes a leaf that may go    | the tree's set of such leaves (``LeafSet``)         |
| an insertion                     | ``begin_insert``: a tick of the policy's clock      |
| a state is used, locked          | ``MarconiMambaComponent``                           |

A change of the list or of the set in a way that SGLang does not use today would go unseen, so it
is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.mem_cache.unified_cache.components import ComponentType
from sglang.srt.mem_cache.unified_cache.unified_tree_core import UnifiedLRUList, UnifiedTreeCore

from sglang_marconi.cache import tree_check
from sglang_marconi.events import Added, Cleared, Dropped, Observer, Removed, Split
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.seams import IncompatibleSGLang

if TYPE_CHECKING:
    from collections.abc import Callable

    from sglang.srt.mem_cache.base_prefix_cache import InsertParams
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.unified_cache.components import TreeComponent
    from sglang.srt.mem_cache.unified_cache.unified_tree_core import UnifiedTreeNode
    from sglang.srt.mem_cache.unified_cache.unified_tree_core_interface import InsertStepResult


class MarconiTreeCore(UnifiedTreeCore):
    """SGLang's Python tree with an ``EvictionPolicy`` that sees every change."""

    def __init__(
        self, params: CacheInitParams, components: dict[ComponentType, TreeComponent]
    ) -> None:
        states = components[ComponentType.MAMBA]
        self.policy: EvictionPolicy = states.policy
        self.observer: Observer | None = states.observer
        # Ends in reset().
        super().__init__(params, components)

    def reset(self) -> None:
        super().reset()
        self.policy.clear()
        self._prefixes: dict[int, PrefixNode] = {self.root_node.id: self.policy.root}
        self.lru_lists[ComponentType.MAMBA] = StateList(self)
        self.evictable_device_leaves: set[UnifiedTreeNode] = LeafSet(self)
        self.report(Cleared, self.policy.root)

    def prefix(self, node: UnifiedTreeNode) -> PrefixNode:
        """The policy's view of ``node``, which it may see for the first time."""
        found = self._prefixes.get(node.id)
        if found is None:
            above = self.prefix(node.parent)
            found = self.policy.add(above, node.id, above.depth + len(node.key))
            self._prefixes[node.id] = found
            self.report(Added, found)
        return found

    def report(self, event: Callable[..., object], *nodes: PrefixNode) -> None:
        """An event of this kind has happened to ``nodes``."""
        if self.observer is not None:
            self.observer.emit(event(*nodes))

    def begin_insert(self, params: InsertParams) -> InsertStepResult:
        self.policy.tick()
        return super().begin_insert(params)

    def _split_node(self, key: Any, child: UnifiedTreeNode, split_len: int) -> tuple[Any, Any]:
        lower = self.prefix(child)
        above = self.prefix(child.parent)
        new_node, action = super()._split_node(key, child, split_len)
        upper = self.policy.split(lower, new_node.id, above.depth + split_len)
        self._prefixes[new_node.id] = upper
        self.report(Split, upper, lower)
        return new_node, action

    def _remove_leaf_from_parent(self, node: UnifiedTreeNode) -> None:
        super()._remove_leaf_from_parent(node)
        prefix = self._prefixes.pop(node.id)
        self.report(Removed, prefix)
        self.policy.remove(prefix)

    def sanity_check(self, *args: Any, **kwargs: Any) -> None:
        """SGLang's own check, which a server runs while idle if it is asked to, and ours."""
        super().sanity_check(*args, **kwargs)
        tree_check.check(self, self.policy)


def _unseen(owner: str, method: str) -> Callable[..., Any]:
    """A method that SGLang did not call of ``owner`` when this was written."""

    def refuse(*_: object, **__: object) -> Any:
        raise IncompatibleSGLang(
            f"SGLang called {method} of {owner}: a change that sglang-marconi's eviction policy "
            "does not hear of"
        )

    return refuse


class StateList(UnifiedLRUList):
    """The nodes with a state, in SGLang's order of use; a change of them is reported."""

    def __init__(self, tree: MarconiTreeCore) -> None:
        super().__init__(
            ComponentType.MAMBA,
            tree.component_types,
            is_referenced=tree._session_lru_predicate(ComponentType.MAMBA),
        )
        self._tree = tree

    def insert_mru(self, node: UnifiedTreeNode) -> None:
        super().insert_mru(node)
        self._tree.policy.store_state(self._tree.prefix(node))

    # For what a split leaves with the upper node, which is no state.
    insert_after = _unseen("the list of states", "insert_after")

    def remove_node(self, node: UnifiedTreeNode) -> None:
        super().remove_node(node)
        prefix = self._tree.prefix(node)
        self._tree.policy.drop_state(prefix)
        self._tree.report(Dropped, prefix)


_LEAVES = "the set of leaves that may be evicted"


class LeafSet(set[Any]):
    """The leaves whose KV may be evicted; a change of them is reported."""

    def __init__(self, tree: MarconiTreeCore) -> None:
        super().__init__()
        self._tree = tree

    def add(self, node: UnifiedTreeNode) -> None:
        if node not in self:
            super().add(node)
            self._tree.policy.offer_leaf(
                self._tree.prefix(node),
                referenced=node.component_data[ComponentType.FULL].session_ref > 0,
            )

    def discard(self, node: UnifiedTreeNode) -> None:
        if node in self:
            super().discard(node)
            self._tree.policy.withdraw_leaf(self._tree.prefix(node))

    remove = _unseen(_LEAVES, "remove")
    pop = _unseen(_LEAVES, "pop")
    clear = _unseen(_LEAVES, "clear")
    update = _unseen(_LEAVES, "update")
    difference_update = _unseen(_LEAVES, "difference_update")
    intersection_update = _unseen(_LEAVES, "intersection_update")
    symmetric_difference_update = _unseen(_LEAVES, "symmetric_difference_update")
    __ior__ = _unseen(_LEAVES, "__ior__")
    __isub__ = _unseen(_LEAVES, "__isub__")
    __iand__ = _unseen(_LEAVES, "__iand__")
    __ixor__ = _unseen(_LEAVES, "__ixor__")
