"""Candidates in tiers: as long as one has any, no later tier gives one up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, Generic, Protocol, Self, TypeVar


class Ordered(IntEnum):
    """Names in an order, the first one least; each has its ``words`` for people."""

    words: str

    def __new__(cls, words: str) -> Self:
        # An int, which hashes in a tenth of the time of another member.
        member = int.__new__(cls, len(cls.__members__))
        member._value_ = len(cls.__members__)
        member.words = words
        return member


class Queue(Protocol):
    """The candidates of one tier, which are chosen from by what its user knows of it."""

    def __len__(self) -> int: ...

    def put(self, owner: Any, recency: float, efficiency: float, /) -> None:
        """Make ``owner`` a candidate, or bring it up to date."""

    def discard(self, owner: Any, /) -> None:
        """Not a candidate any more."""


T = TypeVar("T")
TierT = TypeVar("TierT")
QueueT = TypeVar("QueueT", bound=Queue)


class Tiers(Generic[T, TierT, QueueT]):
    """Which tier each candidate is in.

    Args:
        queues: of each tier, in the order in which they go.
    """

    def __init__(self, queues: Mapping[TierT, QueueT]) -> None:
        self._queues = queues
        self._order = tuple(queues.values())
        self._queue_of: dict[T, QueueT] = {}

    def __len__(self) -> int:
        return len(self._queue_of)

    def put(self, tier: TierT, owner: T, recency: float, efficiency: float) -> None:
        """Make ``owner`` a candidate of this tier, or bring it up to date."""
        queue = self._queues[tier]
        before = self._queue_of.get(owner)
        if before is not None and before is not queue:
            before.discard(owner)
        self._queue_of[owner] = queue
        queue.put(owner, recency, efficiency)

    def discard(self, owner: T) -> None:
        """Not a candidate, if it was one."""
        queue = self._queue_of.pop(owner, None)
        if queue is not None:
            queue.discard(owner)

    def first(self) -> QueueT | None:
        """The first queue that has any candidate."""
        for queue in self._order:
            if queue:
                return queue
        return None

    def queues(self) -> Iterable[tuple[TierT, QueueT]]:
        """Of each tier, in the order in which they go."""
        return self._queues.items()

    def find(self, owner: T) -> tuple[TierT, QueueT] | None:
        """The tier of a candidate, and its queue; ``None`` if it is none."""
        found = self._queue_of.get(owner)
        return next((pair for pair in self._queues.items() if pair[1] is found), None)
