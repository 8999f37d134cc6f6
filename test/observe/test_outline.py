"""The sums below each node, and which nodes are drawn, against a walk over the tree."""

from __future__ import annotations

import random
from itertools import count

import pytest
from sglang_marconi.cost import token_length_cost
from sglang_marconi.events import (
    Added,
    Cleared,
    Dropped,
    Observer,
    Reason,
    Removed,
    Split,
    Stored,
)
from sglang_marconi.observe.inspection.outline import Outline, own_tokens
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.utility import PaperUtility


class Grown:
    """A tree that grows at random, and its outline."""

    def __init__(self, seed: int) -> None:
        cost = token_length_cost(state_bytes=1, kv_bytes_per_token=1)
        self.policy = EvictionPolicy(cost, PaperUtility(0.0))
        self.observer = Observer()
        self.outline = Outline(self.observer, self.policy.root)
        self.nodes: list[PrefixNode] = []
        self.chooser = random.Random(seed)
        self._handles = count()

    def step(self) -> None:
        node = self.chooser.choice(self.nodes) if self.nodes else None
        what = self.chooser.random()
        if node is None or what < 0.4:
            self.add(node or self.policy.root, self.chooser.randrange(1, 50))
        elif what < 0.5 and own_tokens(node) > 1:
            self.split(node)
        elif what < 0.7 and not node.children:
            self.remove(node)
        elif node.has_state:
            self.policy.drop_state(node)
            self.observer.emit(Dropped(node))
        else:
            self.policy.store_state(node)
            self.observer.emit(Stored(node, Reason.END))

    def add(self, parent: PrefixNode, tokens: int) -> None:
        self.nodes.append(self.policy.add(parent, next(self._handles), parent.depth + tokens))
        self.observer.emit(Added(self.nodes[-1]))

    def split(self, node: PrefixNode) -> None:
        depth = node.depth - self.chooser.randrange(1, own_tokens(node))
        self.nodes.append(self.policy.split(node, next(self._handles), depth))
        self.observer.emit(Split(self.nodes[-1], node))

    def remove(self, node: PrefixNode) -> None:
        if node.has_state:
            self.policy.drop_state(node)
            self.observer.emit(Dropped(node))
        self.observer.emit(Removed(node))
        self.policy.remove(node)
        self.nodes.remove(node)


def sums(node: PrefixNode) -> tuple[int, int, int]:
    """Tokens, nodes and checkpoints of a subtree."""
    parts = [sums(child) for child in node.children.values()]
    tokens, nodes, checkpoints = map(sum, zip(*parts, strict=True)) if parts else (0, 0, 0)
    return tokens + own_tokens(node), nodes + 1, checkpoints + node.has_state


@pytest.mark.parametrize("seed", range(4))
def test_sums_of_a_changing_tree(seed: int) -> None:
    grown = Grown(seed)
    for step in range(300):
        grown.step()
        if step % 10 == 0:
            for node, below, _ in grown.outline.largest(1000):
                assert (below.tokens, below.nodes, below.checkpoints) == sums(node)
    assert len(grown.nodes) > 20


@pytest.mark.parametrize("seed", range(4))
def test_the_drawn_ones_hang_together_and_have_most_tokens_below(seed: int) -> None:
    grown = Grown(seed)
    for _ in range(300):
        grown.step()
    drawn = grown.outline.largest(12)
    nodes = [shown.node for shown in drawn]
    assert nodes[0] is grown.policy.root
    assert [shown.parent for shown in drawn] == [
        nodes.index(node.parent) if node.parent is not None else -1 for node in nodes
    ]
    most = sorted((sums(node)[0] for node in [grown.policy.root, *grown.nodes]), reverse=True)
    assert [shown.below.tokens for shown in drawn] == most[:12]


def test_an_emptied_tree() -> None:
    grown = Grown(0)
    grown.add(grown.policy.root, 5)
    grown.policy.clear()
    grown.observer.emit(Cleared(grown.policy.root))
    assert [shown.node for shown in grown.outline.largest(5)] == [grown.policy.root]
    assert grown.outline.total().tokens == 0
