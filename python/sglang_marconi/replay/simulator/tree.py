"""A radix tree over token runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.replay.tokens import Tokens


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
    run = int(np.searchsorted(sequence.ends, at, side="right"))
    start = sequence.ends.item(run - 1) if run else 0
    return sequence.ids.item(run), at - start


def _shared(one: Tokens, other: Tokens, start: int, end: int) -> int:
    """How far two sequences agree before ``end``, given that they do before ``start``."""
    first = int(np.searchsorted(one.ends, start, side="right"))
    last = min(
        int(np.searchsorted(one.ends, end, side="left")),
        int(np.searchsorted(other.ends, end, side="left")),
    )
    here, there = slice(first, last + 1), slice(first, last + 1)
    runs = min(len(one.ids), len(other.ids), last + 1) - first
    differ = one.ids[here][:runs] != other.ids[there][:runs]
    differ |= one.ends[here][:runs] != other.ends[there][:runs]
    at = int(differ.argmax())
    if not differ[at]:
        return end
    run = first + at
    if one.ids[run] == other.ids[run]:
        return min(one.ends.item(run), other.ends.item(run), end)
    return one.ends.item(run - 1) if run else 0
