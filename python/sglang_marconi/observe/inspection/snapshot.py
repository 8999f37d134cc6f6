"""The cache at one time, for the live view."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from sglang_marconi.events import Observer
from sglang_marconi.observe.held import Held, Memory
from sglang_marconi.observe.inspection.identity import Identities
from sglang_marconi.observe.inspection.journal import Journal
from sglang_marconi.observe.inspection.outline import Outline, Shown, own_tokens
from sglang_marconi.observe.inspection.state import Node, State

if TYPE_CHECKING:
    from sglang_marconi.cache.tree_core import MarconiTreeCore
    from sglang_marconi.policy.ranking import Standing

SHOWN = 400
"""Nodes that the live view draws; what is below them is summed up."""
INTERVAL = 0.5
"""Seconds between two snapshots, however often one is asked for."""


class Inspector:
    """Answers for one cache, from its scheduler's main thread. ``tree`` must be empty still."""

    def __init__(
        self,
        observer: Observer,
        tree: MarconiTreeCore,
        held: Held,
        memory: Memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tree = tree
        self._policy = tree.policy
        self._held = held
        self._memory = memory
        self._clock = clock
        self._identities = Identities(observer, tree)
        self._outline = Outline(observer, self._policy.root)
        self._journal = Journal(observer, self._policy, self._identities)
        self._taken_at: float | None = None
        self._taken = b""

    def snapshot(self) -> bytes:
        """A `State` in JSON, no older than `INTERVAL`."""
        now = self._clock()
        if self._taken_at is None or now - self._taken_at >= INTERVAL:
            self._taken = msgspec.json.encode(self.state())
            self._taken_at = self._clock()
        return self._taken

    def state(self) -> State:
        """Everything, now. Reads only, as other ranks are not asked."""
        start = time.perf_counter()
        policy, total = self._policy, self._outline.total()
        valuation = policy.valuation
        shown = self._outline.largest(SHOWN + 1)
        return State(
            time=time.time(),
            policy=valuation.name,
            alpha=valuation.alpha,
            ticks=policy.ticks,
            nodes=total.nodes - 1,
            tokens=total.tokens,
            checkpoints=total.checkpoints,
            checkpoint_forms=self._held.by_form(),
            checkpoint_capacity_bytes=dict(self._memory.capacity),
            tree=self._nodes(shown),
            evictions=self._journal.evictions(),
            intervals=self._journal.intervals(),
            snapshot_seconds=time.perf_counter() - start,
        )

    def _nodes(self, shown: list[Shown]) -> list[Node]:
        hidden = [[each.below.nodes, each.below.tokens, each.below.checkpoints] for each in shown]
        for at, (node, below, parent) in enumerate(shown):
            hidden[at][0] -= 1
            hidden[at][1] -= own_tokens(node)
            hidden[at][2] -= node.has_state
            if parent >= 0:
                hidden[parent][0] -= below.nodes
                hidden[parent][1] -= below.tokens
                hidden[parent][2] -= below.checkpoints
        return [self._node(each, *sums) for each, sums in zip(shown, hidden, strict=True)]

    def _node(self, shown: Shown, nodes: int, tokens: int, checkpoints: int) -> Node:
        node = shown.node
        own = own_tokens(node)
        standing = self._standing(shown)
        return Node(
            id=self._identities.name(node),
            parent=shown.parent,
            start=node.depth - own,
            tokens=own,
            form=self._policy.forms[node.form].name if node.has_state else None,
            score=None if standing is None else standing.score,
            group=None if standing is None else standing.group,
            age=self._policy.age(node),
            hits=node.hits,
            locked=node.state_in_use or node.running_below > 0,
            nodes=nodes,
            hidden_tokens=tokens,
            checkpoints=checkpoints,
        )

    def _standing(self, shown: Shown) -> Standing | None:
        node, policy = shown.node, self._policy
        if not node.has_state:
            return policy.standing_of_leaf(node)
        return policy.standing_of_state(node) or policy.standing_on_host(node)
