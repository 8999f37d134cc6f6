"""A radix tree over token runs."""

from __future__ import annotations

from typing import NamedTuple

from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.traces.tokens import Tokens


class TreeNode:
    """The tokens ``[parent.depth, depth)`` of ``sequence``.

    ``prefix`` is the policy's view of the node.
    """

    __slots__ = ("children", "depth", "parent", "prefix", "sequence")

    def __init__(self, parent: TreeNode | None, sequence: Tokens, depth: int) -> None:
        self.parent = parent
        self.sequence = sequence
        self.depth = depth
        self.children: dict[tuple[int, int], TreeNode] = {}
        self.prefix: PrefixNode

    def first_token(self) -> tuple[int, int]:
        """What tells this node from its siblings."""
        assert self.parent is not None
        return _token(self.sequence, self.parent.depth)


class Walk(NamedTuple):
    """How far a sequence follows the tree.

    ``path``: the nodes it follows to their ends, from the top. ``shared`` tokens are in the
    tree; where they end inside a node, that is ``partial``.
    """

    path: list[TreeNode]
    shared: int
    partial: TreeNode | None


class RadixTree:
    """Nodes by their tokens; what they hold is the owner's affair."""

    def __init__(self) -> None:
        self.root = TreeNode(None, Tokens.plain([]), 0)

    def walk(self, sequence: Tokens, limit: int) -> Walk:
        """Follow the first ``limit`` tokens of ``sequence`` down the tree."""
        node = self.root
        path: list[TreeNode] = []
        while node.depth < limit:
            child = node.children.get(_token(sequence, node.depth))
            if child is None:
                break
            shared = _shared(sequence, child.sequence, node.depth, min(limit, child.depth))
            if shared < child.depth:
                return Walk(path, shared, child)
            path.append(child)
            node = child
        return Walk(path, node.depth, None)

    def split(self, node: TreeNode, depth: int) -> TreeNode:
        """Cut ``node`` at ``depth``; returns the new upper part."""
        parent = node.parent
        assert parent is not None
        upper = TreeNode(parent, node.sequence, depth)
        parent.children[node.first_token()] = upper
        node.parent = upper
        upper.children[node.first_token()] = node
        return upper

    def add(self, parent: TreeNode, sequence: Tokens, depth: int) -> TreeNode:
        """A new leaf: the tokens of ``sequence`` from ``parent`` to ``depth``."""
        leaf = TreeNode(parent, sequence, depth)
        parent.children[leaf.first_token()] = leaf
        return leaf

    def remove(self, leaf: TreeNode) -> None:
        """Take a leaf out."""
        assert leaf.parent is not None and not leaf.children
        del leaf.parent.children[leaf.first_token()]


def _token(sequence: Tokens, at: int) -> tuple[int, int]:
    """The token at a position: its run's number and its place in the run."""
    run = int(sequence.ends.searchsorted(at, "right"))
    start = sequence.ends.item(run - 1) if run else 0
    return sequence.ids.item(run), at - start


def _shared(one: Tokens, other: Tokens, start: int, end: int) -> int:
    """How far two sequences agree before ``end``, given that they do before ``start``."""
    first = int(one.ends.searchsorted(start, "right"))
    last = int(one.ends.searchsorted(end, "left"))
    same_runs = one.ends.base is not None and one.ends.base is other.ends.base
    if not same_runs:
        last = min(last, int(other.ends.searchsorted(end, "left")))
    stop = min(len(one.ids), len(other.ids), last + 1)
    differ = one.ids[first:stop] != other.ids[first:stop]
    if not same_runs:
        differ |= one.ends[first:stop] != other.ends[first:stop]
    at = int(differ.argmax())
    if not differ[at]:
        return end
    run = first + at
    if one.ids[run] == other.ids[run]:
        return min(one.ends.item(run), other.ends.item(run), end)
    return one.ends.item(run - 1) if run else 0
