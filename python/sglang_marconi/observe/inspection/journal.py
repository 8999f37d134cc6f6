"""What happened lately: the hit rate over time and the latest evictions."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from sglang_marconi.events import Evicted, Observer, Prompted
from sglang_marconi.observe.inspection.identity import Identities
from sglang_marconi.observe.inspection.state import Eviction, Interval
from sglang_marconi.observe.metrics import STATELESS
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.prediction import kind_of

SECONDS = 10.0
INTERVALS = 360
EVICTIONS = 50


class Journal:
    """The last hour in intervals of `SECONDS`, and the last `EVICTIONS` evictions."""

    def __init__(
        self,
        observer: Observer,
        policy: EvictionPolicy,
        identities: Identities,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy
        self._identities = identities
        self._clock = clock
        # Number of the interval, then the sums of `Interval`.
        self._intervals: deque[list[int]] = deque(maxlen=INTERVALS)
        self._evictions: deque[Eviction] = deque(maxlen=EVICTIONS)
        observer.on(Prompted, self._prompted)
        observer.on(Evicted, self._evicted)

    def intervals(self) -> list[Interval]:
        """Those in which a request began, in order."""
        return [
            Interval(number * SECONDS, SECONDS, *sums) for number, *sums in tuple(self._intervals)
        ]

    def evictions(self) -> list[Eviction]:
        """The last one first."""
        return list(reversed(self._evictions))

    def _prompted(self, event: Prompted) -> None:
        number = int(self._clock() // SECONDS)
        if not self._intervals or self._intervals[-1][0] != number:
            self._intervals.append([number, 0, 0, 0, 0])
        sums = self._intervals[-1]
        sums[1] += event.tokens
        sums[2] += event.hit
        sums[3] += event.shared - event.hit
        sums[4] += 1

    def _evicted(self, event: Evicted) -> None:
        node, standing = event.node, event.standing
        self._evictions.append(
            Eviction(
                time=self._clock(),
                id=self._identities.name(node),
                what=event.what,
                kind=kind_of(node).name.lower() if node.has_state else STATELESS,
                depth=node.depth,
                age=self._policy.age(node),
                hits=node.hits,
                group=None if standing is None else standing.group,
                score=None if standing is None else standing.score,
            )
        )
