"""A cache that knows the requests to come: the mark that shares are counted to.

It plans before it serves. Whatever a cache reuses, it has held a state from a request that passed
the prefix to the one that resumes there, and the prefix's KV with it. Each such hold saves tokens
and takes bytes for a time, which is counted in requests. The plan takes the holds one after the
other, the one first that saves most for each byte and request, and leaves out what does not fit
into the budget all the time. So a state is kept exactly where a later prompt leaves this one, no
KV is kept further than it is needed, and nothing is stored that is not used.

What it knows: all prompts and replies, and their order. What it has to obey, like any cache: a
request leaves a state only at what it computes, which is nothing above where it resumed. A prefix
that a request passes without computing it keeps the state that it has, or has none from then on.

It is no proven upper bound. A plan that is made one hold after the other is not always the best:
what saves much for few bytes may be in the way of what saves more in all.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_marconi.cost import ModelCost
from sglang_marconi.simulate.cache import SimulatedCache
from sglang_marconi.simulate.future import SharedPrefix, shared_prefixes
from sglang_marconi.traces.requests import TraceRequest


class Hold(NamedTuple):
    """A state, and all KV down to it, from one request that passes there to the next."""

    prefix: SharedPrefix
    since: int
    until: int


class _Change(NamedTuple):
    """Holds to take and to let go; ``size``: bytes more after each request from ``since`` on."""

    taken: list[Hold]
    freed: list[Hold]
    since: int
    size: NDArray[np.int64]


class Plan:
    """What is held after each request of a trace, within ``total_bytes``.

    ``resumed``: the prefix at which each request resumes. ``state_bytes``, ``kv_bytes``: what is
    held after each, int64. ``shared``: as `shared_prefixes` has them; they know what is held.
    """

    def __init__(self, cost: ModelCost, total_bytes: int, requests: Sequence[TraceRequest]) -> None:
        self._cost = cost
        self._total = total_bytes
        self.shared = shared_prefixes(requests, cost)
        self.resumed: list[SharedPrefix | None] = [None] * len(requests)
        self.state_bytes: NDArray[np.int64] = np.zeros(len(requests), np.int64)
        self.kv_bytes: NDArray[np.int64] = np.zeros(len(requests), np.int64)
        self._take_by_worth()

    def hit(self, request: int) -> int:
        """How many tokens of its prompt a request reuses."""
        prefix = self.resumed[request]
        return prefix.depth if prefix is not None else 0

    def _take_by_worth(self) -> None:
        wanted = [
            (prefix, number)
            for number, path in enumerate(self.shared)
            for prefix in path
            if prefix.passes[0] < number
        ]
        queue = [(-self._worth(*use)[0], at) for at, use in enumerate(wanted)]
        heapq.heapify(queue)
        while queue:
            _, at = heapq.heappop(queue)
            prefix, number = wanted[at]
            # What was taken meanwhile has changed what it saves, and what it needs.
            worth, change = self._worth(prefix, number)
            if change is None:
                continue
            if queue and (-worth, at) > queue[0]:
                heapq.heappush(queue, (-worth, at))
            elif self._fits(change):
                self._apply(change)
                self.resumed[number] = prefix

    def _worth(self, prefix: SharedPrefix, request: int) -> tuple[float, _Change | None]:
        """Tokens that resuming at ``prefix`` saves, by bytes and requests; and what it takes."""
        saved = prefix.depth - self.hit(request)
        if saved <= 0:
            return 0.0, None
        change = self._change(prefix, request)
        return saved / max(int(change.size.sum()), 1), change

    def _change(self, prefix: SharedPrefix, request: int) -> _Change:
        taken = self._until(prefix, request)
        start = taken[-1].since
        # Once it resumes there, the request computes none of these: what it was to leave has to
        # be there before.
        above = prefix.above
        while above is not None and above.depth >= self.hit(request):
            if above.leaves(request) and not above.arrives(request):
                taken += self._until(above, request)
            above = above.above
        freed = self._needless(request, start)
        since = min(hold.since for hold in taken)
        return _Change(taken, freed, since, self._size(taken, freed, since, request))

    def _until(self, prefix: SharedPrefix, request: int) -> list[Hold]:
        """The holds that have a state arrive at a request, from the last one back."""
        holds = []
        while True:
            since = prefix.before(request)
            holds.append(Hold(prefix, since, request))
            if self.hit(since) <= prefix.depth or prefix.arrives(since):
                return holds
            request = since

    def _needless(self, request: int, start: int) -> list[Hold]:
        """What ``request`` resumes at so far, and nothing else needs, back to ``start``."""
        prefix = self.resumed[request]
        holds: list[Hold] = []
        if prefix is None or prefix.leaves(request):
            return holds
        while prefix.arrives(request):
            since = prefix.before(request)
            if since < start:
                break
            holds.append(Hold(prefix, since, request))
            if self.resumed[since] is prefix:
                break
            request = since
        return holds

    def _size(
        self, taken: Sequence[Hold], freed: Sequence[Hold], since: int, until: int
    ) -> NDArray[np.int64]:
        size = np.zeros(until - since, np.int64)
        new_kv: dict[SharedPrefix, NDArray[np.bool_]] = {}
        for hold in taken:
            span = slice(hold.since - since, hold.until - since)
            size[span] += self._cost.state_bytes
            prefix: SharedPrefix | None = hold.prefix
            while prefix is not None:
                new = new_kv.setdefault(prefix, np.zeros(len(size), np.bool_))
                new[span] |= ~prefix.kv(hold.since, hold.until)
                prefix = prefix.above
        for hold in freed:
            # Its KV stays, for what goes on below.
            size[hold.since - since : hold.until - since] -= self._cost.state_bytes
        for prefix, new in new_kv.items():
            size[new] += prefix.edge_bytes
        return size

    def _fits(self, change: _Change) -> bool:
        span = slice(change.since, change.since + len(change.size))
        held = self.state_bytes[span] + self.kv_bytes[span]
        return bool((held + change.size <= self._total).all())

    def _apply(self, change: _Change) -> None:
        span = slice(change.since, change.since + len(change.size))
        self.kv_bytes[span] += change.size
        for sign, holds in ((1, change.taken), (-1, change.freed)):
            for hold in holds:
                size = sign * self._cost.state_bytes
                self.state_bytes[hold.since : hold.until] += size
                self.kv_bytes[hold.since : hold.until] -= size
                hold.prefix.state(hold.since, hold.until)[:] = sign > 0
        for hold in change.taken:
            prefix: SharedPrefix | None = hold.prefix
            while prefix is not None:
                prefix.kv(hold.since, hold.until)[:] = True
                prefix = prefix.above


class OracleCache(SimulatedCache):
    """Serves the trace that it was made for, as planned: no others, in no other order."""

    def __init__(self, cost: ModelCost, total_bytes: int, requests: Sequence[TraceRequest]) -> None:
        self.plan = Plan(cost, total_bytes, requests)
        self._served = 0

    def serve(self, request: TraceRequest) -> int:
        number, self._served = self._served, self._served + 1
        self.state_bytes_held = int(self.plan.state_bytes[number])
        self.kv_bytes_held = int(self.plan.kv_bytes[number])
        self._note_peak()
        return self.plan.hit(number)
