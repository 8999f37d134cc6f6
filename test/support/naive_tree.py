"""A radix tree that compares token by token: the simulator's tree, as it would be written first."""

from __future__ import annotations

from sglang_marconi.simulate.tree import TreeNode, Walk
from sglang_marconi.traces.tokens import Tokens


class NaiveTree:
    """`RadixTree`'s methods over expanded tokens."""

    def __init__(self) -> None:
        self.root = TreeNode(None, Tokens.plain([]), 0)

    def walk(self, sequence: Tokens, limit: int) -> Walk:
        tokens = sequence.expand()[:limit]
        node, path = self.root, []
        while True:
            for child in node.children.values():
                held = child.sequence.expand()[: child.depth]
                shared = node.depth
                while shared < min(len(held), len(tokens)) and held[shared] == tokens[shared]:
                    shared += 1
                if shared == child.depth:
                    path.append(child)
                    node = child
                    break
                if shared > node.depth:
                    return Walk(path, shared, child)
            else:
                return Walk(path, node.depth, None)

    def split(self, node: TreeNode, depth: int) -> TreeNode:
        parent = node.parent
        assert parent is not None
        upper = TreeNode(parent, node.sequence, depth)
        del parent.children[(id(node), 0)]
        parent.children[(id(upper), 0)] = upper
        node.parent = upper
        upper.children[(id(node), 0)] = node
        return upper

    def add(self, parent: TreeNode, sequence: Tokens, depth: int) -> TreeNode:
        leaf = TreeNode(parent, sequence, depth)
        parent.children[(id(leaf), 0)] = leaf
        return leaf

    def remove(self, leaf: TreeNode) -> None:
        assert leaf.parent is not None
        del leaf.parent.children[(id(leaf), 0)]
