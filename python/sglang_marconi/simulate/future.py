"""What a trace shares: the prefixes at which its prompts part, and the requests that pass them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sglang_marconi.cost import ModelCost
from sglang_marconi.simulate.tree import RadixTree, TreeNode
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens


class SharedPrefix:
    """The first ``depth`` tokens of several requests, where one of them leaves all before it.

    ``above``: the next shorter one, if there is any; ``edge_bytes``: the KV from there on.
    ``passes``: the requests whose prompt and reply start with it, by their numbers, in order.
    """

    __slots__ = ("_kv", "_state", "above", "depth", "edge_bytes", "passes")

    def __init__(self, depth: int, above: SharedPrefix | None, edge_bytes: int) -> None:
        self.depth = depth
        self.above = above
        self.edge_bytes = edge_bytes
        self.passes: list[int] = []

    def before(self, request: int) -> int:
        """The last request before this one that passed."""
        return self.passes[bisect_left(self.passes, request) - 1]

    # What is held between a request and the next, from the first that passed to the last.

    def hold_nothing(self) -> None:
        """Neither a state nor KV."""
        span = self.passes[-1] - self.passes[0]
        self._state: NDArray[np.bool_] = np.zeros(span, np.bool_)
        self._kv: NDArray[np.bool_] = np.zeros(span, np.bool_)

    def state(self, since: int, until: int) -> NDArray[np.bool_]:
        """Whether its state is held after each of the requests ``[since, until)``; a view."""
        return self._state[since - self.passes[0] : until - self.passes[0]]

    def kv(self, since: int, until: int) -> NDArray[np.bool_]:
        """Whether the KV of its edge is."""
        return self._kv[since - self.passes[0] : until - self.passes[0]]

    def arrives(self, request: int) -> bool:
        """Whether its state is held until this request, which passes, comes."""
        return request > self.passes[0] and bool(self.state(request - 1, request)[0])

    def leaves(self, request: int) -> bool:
        """Whether its state is held from this request, which passes, on."""
        return bool(self.state(request, request + 1).any())


def shared_prefixes(requests: Sequence[TraceRequest], cost: ModelCost) -> list[list[SharedPrefix]]:
    """For each request the shared prefixes at which its prompt could resume, the shortest first.

    The last token of a prompt is computed whatever is cached, and the last one of a reply is
    never read: no prefix has them.
    """
    tree = _where_prompts_part(requests)
    found: dict[TreeNode, SharedPrefix] = {}
    resumable = []
    for number, request in enumerate(requests):
        path: list[SharedPrefix] = []
        for node in tree.walk(request.prompt + request.reply, _end(request)).path:
            above = path[-1] if path else None
            prefix = found.get(node)
            if prefix is None:
                start = above.depth if above is not None else 0
                edge_bytes = cost.kv_bytes(node.depth) - cost.kv_bytes(start)
                prefix = found[node] = SharedPrefix(node.depth, above, edge_bytes)
            prefix.passes.append(number)
            path.append(prefix)
        resumable.append([prefix for prefix in path if prefix.depth < len(request.prompt)])
    for prefix in found.values():
        prefix.hold_nothing()
    return resumable


def _where_prompts_part(requests: Sequence[TraceRequest]) -> RadixTree:
    """A node for each prefix that a prompt has in common with an earlier request."""
    seen, parts = RadixTree(), RadixTree()
    for request in requests:
        shared = seen.walk(request.prompt, len(request.prompt) - 1).shared
        if shared:
            _enter(parts, request.prompt, shared)
        _enter(seen, request.prompt + request.reply, _end(request))
    return parts


def _enter(tree: RadixTree, sequence: Tokens, depth: int) -> None:
    """Have a node for the first ``depth`` tokens of a sequence."""
    walk = tree.walk(sequence, depth)
    end = walk.path[-1] if walk.path else tree.root
    if walk.partial is not None:
        end = tree.split(walk.partial, walk.shared)
    if end.depth < depth:
        tree.add(end, sequence, depth)


def _end(request: TraceRequest) -> int:
    """How many tokens of prompt and reply the model reads."""
    return len(request.prompt) + max(len(request.reply) - 1, 0)
