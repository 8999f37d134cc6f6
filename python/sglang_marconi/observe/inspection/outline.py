"""How much of the cache is below each node: what to draw first without a walk over the tree."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush, nlargest
from itertools import islice
from typing import NamedTuple

from sglang_marconi.events import (
    Added,
    Cleared,
    Dropped,
    Observer,
    Removed,
    Split,
    Stored,
)
from sglang_marconi.policy.ledger import PrefixNode

_CHILDREN = 1024
"""Of more children of one node, the latest are looked at."""


class Below:
    """Sums over a node and all below it: tokens of KV, nodes, checkpoints."""

    __slots__ = ("checkpoints", "nodes", "tokens")

    def __init__(self, tokens: int = 0, nodes: int = 0, checkpoints: int = 0) -> None:
        self.tokens = tokens
        self.nodes = nodes
        self.checkpoints = checkpoints


class Shown(NamedTuple):
    """A node chosen to be drawn, and where its parent is among the chosen; -1 for the root's."""

    node: PrefixNode
    below: Below
    parent: int


class Outline:
    """Sums of a tree, kept up to date by an observer's events; each takes time by its depth.

    ``root`` must have no children yet.
    """

    def __init__(self, observer: Observer, root: PrefixNode) -> None:
        self._clear(Cleared(root))
        observer.on(Cleared, self._clear)
        observer.on(Added, self._added)
        observer.on(Split, self._split)
        observer.on(Removed, self._removed)
        observer.on(Stored, self._stored)
        observer.on(Dropped, self._dropped)

    def total(self) -> Below:
        """Sums over the whole tree; the root counts as a node."""
        return self._below[self.root]

    def largest(self, count: int) -> list[Shown]:
        """At most ``count`` nodes, the root first, those with most tokens below them before others.

        A node comes after its parent. Takes time by ``count`` and by the children of the chosen.
        """
        shown: list[Shown] = []
        # The second number makes equal ones comparable.
        waiting = [(0, 0, self.root, -1)]
        met = 1
        while waiting and len(shown) < count:
            _, _, node, parent = heappop(waiting)
            for child in self._most(node, count - len(shown)):
                heappush(waiting, (-self._below[child].tokens, met, child, len(shown)))
                met += 1
            shown.append(Shown(node, self._below[node], parent))
        return shown

    def _most(self, node: PrefixNode, count: int) -> Iterable[PrefixNode]:
        children = node.children
        if len(children) <= count:
            return children.values()
        latest = islice(reversed(children.values()), _CHILDREN)
        return nlargest(count, latest, key=lambda child: self._below[child].tokens)

    def _clear(self, event: Cleared) -> None:
        self.root = event.root
        self._below = {event.root: Below(nodes=1)}

    def _added(self, event: Added) -> None:
        self._below[event.node] = Below()
        self._count(event.node, tokens=own_tokens(event.node), nodes=1)

    def _split(self, event: Split) -> None:
        lower, upper = self._below[event.lower], own_tokens(event.upper)
        self._below[event.upper] = Below(lower.tokens, lower.nodes, lower.checkpoints)
        lower.tokens -= upper
        self._count(event.upper, nodes=1)

    def _removed(self, event: Removed) -> None:
        gone = self._below[event.node]
        self._count(event.node, tokens=-gone.tokens, nodes=-1)
        del self._below[event.node]

    def _stored(self, event: Stored) -> None:
        self._count(event.node, checkpoints=1)

    def _dropped(self, event: Dropped) -> None:
        self._count(event.node, checkpoints=-1)

    def _count(
        self, node: PrefixNode | None, *, tokens: int = 0, nodes: int = 0, checkpoints: int = 0
    ) -> None:
        while node is not None:
            below = self._below[node]
            below.tokens += tokens
            below.nodes += nodes
            below.checkpoints += checkpoints
            node = node.parent


def own_tokens(node: PrefixNode) -> int:
    """Tokens of a node beyond its parent's."""
    return node.depth - (node.parent.depth if node.parent is not None else 0)
