"""Where prompts that wait will part from one that is prefilled, and which of them wait for it.

Requests that wait show which prefixes are reused before any of them is computed. The first to be
admitted leaves states on its way, at the *places* where the others part from it; these wait for
that pass, and no longer, then resume there::

    500 shared tokens --+-- 40 of the first, which is prefilled: leaves a state at 500
                        +-- 40 of the second: waits, resumes at 500
                        +-- (ends there) of the third: waits, resumes at 499

A request that ends where another goes on resumes before its own last token, which has to be
computed. The prompts that wait are kept in a radix tree, to which each is compared once. A place
that is *expected* to get a state stands on an edge of it: whoever is below shares all tokens up to
there, so one look upwards says what a request may wait for. What is expected is told anew in
every round, so that nothing is waited for that no longer comes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.admission import is_worth_its_room

Ids = npt.NDArray[np.int64]
"""Token ids, of shape ``[tokens]``."""
R = TypeVar("R", bound=Hashable)


class _Node(Generic[R]):
    """The prefix of ``depth`` tokens, the last of which are those on the ``edge`` to it.

    ``requests`` end there; ``expected``: depths on the edge that are to get a state.
    """

    __slots__ = ("children", "depth", "edge", "expected", "parent", "requests")

    def __init__(self, parent: _Node[R] | None, edge: Ids, depth: int) -> None:
        self.parent = parent
        self.edge = edge
        self.depth = depth
        self.children: dict[int, _Node[R]] = {}
        self.requests: dict[R, None] = {}
        self.expected: list[int] = []


class _Waiting(NamedTuple, Generic[R]):
    """A request that waits: its prompt ends at ``node``; it may resume after ``most`` tokens."""

    node: _Node[R]
    namespace: Hashable
    most: int


class WaitingPrompts(Generic[R]):
    """The prompts of the requests that wait; what each costs is in proportion to its tokens.

    Depends on the order of calls alone. Prompts of different namespaces share nothing.

    Args:
        cost: FLOPs of a prefix.
        page_size: of KV in tokens; states stand on whole pages.
        resumes: after how many tokens a request could resume now. Asked only where it matters.
    """

    def __init__(self, cost: ModelCost, page_size: int, resumes: Callable[[R], int]) -> None:
        self._cost = cost
        self._page_size = page_size
        self._resumes = resumes
        self._roots: dict[Hashable, _Node[R]] = {}
        self._of: dict[R, _Waiting[R]] = {}
        # Nodes with something expected, in the order in which it was told.
        self._told: dict[_Node[R], None] = {}

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, request: R) -> bool:
        return request in self._of

    def __iter__(self) -> Iterator[R]:
        return iter(self._of)

    # ---- requests come and go ----

    def add(self, request: R, namespace: Hashable, tokens: Ids, most: int) -> None:
        """``request`` waits; it can resume after ``most`` tokens at the latest.

        ``tokens`` are kept, and must not change.
        """
        node = self._roots.get(namespace)
        if node is None:
            node = self._roots[namespace] = _Node(None, tokens[:0], 0)
        while node.depth < len(tokens):
            child = node.children.get(int(tokens[node.depth]))
            if child is None:
                child = _Node(node, tokens[node.depth :], len(tokens))
                node.children[int(tokens[node.depth])] = child
            elif (shared := _common(child.edge, tokens[node.depth :])) < len(child.edge):
                child = self._split(child, shared)
            node = child
        node.requests[request] = None
        self._of[request] = _Waiting(node, namespace, most)

    def remove(self, request: R) -> None:
        """``request`` waits no longer."""
        node, namespace, _ = self._of.pop(request)
        del node.requests[request]
        while node.parent is not None and not node.requests and not node.children:
            self._told.pop(node, None)
            del node.parent.children[int(node.edge[0])]
            node = node.parent
        if node.parent is None:
            if not node.children and not node.requests:
                del self._roots[namespace]
        elif not node.requests and len(node.children) == 1:
            self._merge(node, node.parent, next(iter(node.children.values())))

    def _split(self, lower: _Node[R], edge: int) -> _Node[R]:
        """A new node after ``edge`` tokens of the edge to ``lower``."""
        above = lower.parent
        assert above is not None
        upper: _Node[R] = _Node(above, lower.edge[:edge], above.depth + edge)
        above.children[int(upper.edge[0])] = upper
        lower.edge, lower.parent = lower.edge[edge:], upper
        upper.children[int(lower.edge[0])] = lower
        upper.expected = [at for at in lower.expected if at <= upper.depth]
        lower.expected = [at for at in lower.expected if at > upper.depth]
        if upper.expected:
            self._told[upper] = None
        return upper

    def _merge(self, node: _Node[R], above: _Node[R], below: _Node[R]) -> None:
        """Take out a node at which nothing parts any more."""
        below.edge, below.parent = np.concatenate((node.edge, below.edge)), above
        above.children[int(below.edge[0])] = below
        below.expected = node.expected + below.expected
        if node in self._told:
            del self._told[node]
            self._told[below] = None

    # ---- what a prefill leaves ----

    def places(
        self,
        namespace: Hashable,
        tokens: Ids,
        start: int,
        but: R | None = None,
        passes: float = 0.0,
    ) -> list[int]:
        """Where a prefill of ``tokens`` from ``start`` on should leave states, in order.

        Each is where a request that waits could resume and saves enough beyond where it could
        now, or at the place before. ``but`` does not count: the request that is prefilled.
        ``passes``: those that a place before the end of ``tokens`` takes beyond what runs anyway.
        All who could resume there pay for it.
        """
        parting: dict[int, list[R]] = {}
        for shared, requests in self._parting(namespace, tokens):
            if shared <= start:
                continue
            for request in requests:
                at = min(shared, self._of[request].most) // self._page_size * self._page_size
                if at > start and request is not but:
                    parting.setdefault(at, []).append(request)
        chosen: list[int] = []
        could = sum(map(len, parting.values()))
        for at in sorted(parting):
            before = chosen[-1] if chosen else 0
            # It is the one that could resume least that gains most.
            least = min(self._resumes(each) for each in parting[at])
            if self._gains(max(least, before), at, passes / could if at < len(tokens) else 0.0):
                chosen.append(at)
            could -= len(parting[at])
        return chosen

    def _parting(self, namespace: Hashable, tokens: Ids) -> Iterator[tuple[int, Iterable[R]]]:
        """The requests that share anything with ``tokens``, by how many of them they share."""
        node = self._roots.get(namespace)
        while node is not None:
            onward = None
            if node.depth < len(tokens):
                onward = node.children.get(int(tokens[node.depth]))
            yield node.depth, node.requests
            for child in node.children.values():
                if child is not onward:
                    yield node.depth, _below(child)
            if onward is not None:
                shared = _common(onward.edge, tokens[node.depth :])
                if shared < len(onward.edge):
                    yield node.depth + shared, _below(onward)
                    return
            node = onward

    def _gains(self, above: int, at: int, passes: float = 0.0) -> bool:
        return above < at and is_worth_its_room(above, at, self._cost, passes)

    # ---- what is waited for ----

    def expect_nothing(self) -> None:
        """A new round: what is to come is told again."""
        for node in self._told:
            node.expected.clear()
        self._told.clear()

    def expect(self, namespace: Hashable, tokens: Ids) -> None:
        """A pass under way, or about to be, is to leave a state after these tokens."""
        node = self._reached(namespace, tokens)
        if node is not None:
            node.expected.append(len(tokens))
            self._told[node] = None

    def waits(self, request: R) -> bool:
        """Whether what is expected lets ``request`` resume so much later that it waits for it."""
        node, _, most = self._of[request]
        above: _Node[R] | None = node
        while above is not None:
            at = max((at for at in above.expected if at <= most), default=0)
            if at:
                return self._gains(self._resumes(request), at)
            above = above.parent
        return False

    def sharing(self, namespace: Hashable, tokens: Ids) -> list[R]:
        """The requests that could resume after these tokens."""
        node = self._reached(namespace, tokens)
        if node is None:
            return []
        return [each for each in _below(node) if self._of[each].most >= len(tokens)]

    def _reached(self, namespace: Hashable, tokens: Ids) -> _Node[R] | None:
        """The node whose edge these tokens end on, or at; ``None`` if no prompt starts so."""
        node = self._roots.get(namespace)
        while node is not None and node.depth < len(tokens):
            rest = tokens[node.depth :]
            node = node.children.get(int(rest[0]))
            if node is not None and _common(node.edge, rest) < min(len(node.edge), len(rest)):
                return None
        return node


def _below(node: _Node[R]) -> Iterator[R]:
    """The requests at a node and below it."""
    nodes = [node]
    for each in nodes:
        yield from each.requests
        nodes.extend(each.children.values())


def _common(left: Ids, right: Ids) -> int:
    """How many tokens both start with."""
    count = min(len(left), len(right))
    differ = left[:count] != right[:count]
    first = int(differ.argmax()) if count else 0
    return first if count and differ[first] else count
