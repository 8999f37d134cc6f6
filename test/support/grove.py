"""Policies with a small tree of named prefixes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Generic, TypeVar

from sglang_marconi.cost import ModelCost, token_length_cost
from sglang_marconi.policy.eviction import EvictionPolicy, SharedBudgetEviction
from sglang_marconi.policy.forms import Form
from sglang_marconi.policy.ledger import PrefixLedger, PrefixNode
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.utility import PaperUtility

# A hit saves its tokens.
TOKENS = token_length_cost(state_bytes=100, kv_bytes_per_token=1)

Policy = TypeVar("Policy", bound=PrefixLedger)


class NamedTree(Generic[Policy]):
    """A policy with a tree of named prefixes; every childless one may be evicted."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.nodes: dict[str, PrefixNode] = {"": self.policy.root}
        self._names: dict[int, str] = {}
        self._handles = count()

    def __getitem__(self, name: str) -> PrefixNode:
        return self.nodes[name]

    def insert(self, name: str, tokens: int, *, below: str = "", state: bool = True) -> None:
        """A new leaf of ``tokens`` more tokens than the node it is below."""
        self.policy.tick()
        parent = self.nodes[below]
        handle = next(self._handles)
        self._names[handle] = name
        self.nodes[name] = self.policy.add(parent, handle, parent.depth + tokens)
        if parent is not self.policy.root:
            self.policy.withdraw_leaf(parent)
        self.policy.offer_leaf(self.nodes[name])
        if state:
            self.policy.store_state(self.nodes[name])

    def split(self, name: str, tokens: int, *, above: str) -> None:
        """A new node between ``above`` and its parent, ``tokens`` below that parent."""
        child = self.nodes[above]
        assert child.parent is not None
        handle = next(self._handles)
        self._names[handle] = name
        self.nodes[name] = self.policy.split(child, handle, child.parent.depth + tokens)

    def remove(self, name: str) -> None:
        node = self.nodes.pop(name)
        if node.has_state:
            self.policy.drop_state(node)
        self.policy.withdraw_leaf(node)
        self.policy.remove(node)
        parent = node.parent
        if parent is not None and parent is not self.policy.root and not parent.children:
            self.policy.offer_leaf(parent)

    def use(self, *names: str) -> None:
        for name in names:
            self.policy.tick()
            self.policy.use(self.nodes[name])

    def name(self, victim: PrefixNode | None) -> str | None:
        return None if victim is None else self._names[victim.handle]

    def drain(self, choose: Callable[[], str | None], evict: Callable[[str], None]) -> list[str]:
        """Evict what is chosen until nothing is; the names in order."""
        order: list[str] = []
        while (name := choose()) is not None:
            # Each node goes once, or twice where its state goes first.
            assert order.count(name) < 2
            evict(name)
            order.append(name)
        return order

    def drop(self, name: str) -> None:
        self.policy.drop_state(self.nodes[name])


class Grove(NamedTree[EvictionPolicy]):
    """A tree whose states and KV are in pools of their own; LRU, if nothing is given."""

    def __init__(
        self,
        valuation: Valuation | None = None,
        *,
        cost: ModelCost = TOKENS,
        forms: Sequence[Form] | None = None,
    ) -> None:
        super().__init__(EvictionPolicy(cost, valuation or PaperUtility(0.0), forms))

    def next_state(self) -> str | None:
        return self.name(self.policy.least_useful_state())

    def next_leaf(self) -> str | None:
        return self.name(self.policy.least_useful_leaf())

    def evict_states(self) -> list[str]:
        """Evict every state that may be; their names in order."""
        return self.drain(self.next_state, self.drop)

    def evict_leaves(self) -> list[str]:
        """Evict every leaf that may be, and those that become leaves; their names in order."""
        return self.drain(self.next_leaf, self.remove)


class SharedGrove(NamedTree[SharedBudgetEviction]):
    """A tree whose states and KV share one budget; LRU, if nothing is given."""

    def __init__(
        self,
        valuation: Valuation | None = None,
        *,
        policy: type[SharedBudgetEviction] = SharedBudgetEviction,
        forms: Sequence[Form] | None = None,
    ) -> None:
        super().__init__(policy(TOKENS, valuation or PaperUtility(0.0), forms))

    def next(self) -> str | None:
        return self.name(self.policy.least_useful())

    def evict(self) -> list[str]:
        """Evict all that may be; the names in order, a node's twice if its state went first."""
        return self.drain(self.next, self.drop_or_remove)

    def drop_or_remove(self, name: str) -> None:
        evict = self.drop if self.nodes[name].children else self.remove
        evict(name)
