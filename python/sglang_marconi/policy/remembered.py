"""Places of past requests, remembered without their tokens: which of them does a prompt reach?

What is learned must not depend on what the cache happens to hold: where memory is short, what is
not kept would never be seen to be used, and so never be kept.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_MOST = 4096
"""Places that are remembered at a time."""
_TOKEN, _POSITION = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1342543DE82EF95)


NOTHING = np.uint64(0)
"""The hash of no tokens."""


class Prefixes:
    """Hashes of the prefixes of a sequence, int64 ``[n]``. Sums, so that one pass of numpy finds
    them all; nothing but a guess hangs on two prefixes that have the same.

    ``start`` and ``before``: tokens that come before those given, and the hash of these; or none,
    and the number of a namespace, whose sequences share nothing with others.
    """

    __slots__ = ("_before", "_start", "hashes")

    def __init__(
        self, tokens: NDArray[np.int64], start: int = 0, before: np.uint64 = NOTHING
    ) -> None:
        mixed = tokens.view(np.uint64) + np.uint64(1)
        mixed *= _weights(start + len(tokens))[start:]
        self.hashes: NDArray[np.uint64] = np.cumsum(mixed, out=mixed)
        if before:
            self.hashes += before
        self._start, self._before = start, before

    def __len__(self) -> int:
        """Tokens of the longest."""
        return self._start + len(self.hashes)

    def at(self, tokens: int) -> np.uint64:
        """That of the first ``tokens`` of the sequence, not fewer than ``start``."""
        if tokens == self._start:
            return self._before
        found: np.uint64 = self.hashes[tokens - self._start - 1]
        return found

    def at_all(self, tokens: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The same for many, ``[n]``, all more than ``start``."""
        return self.hashes[tokens - (self._start + 1)]


class _Weights:
    """Odd numbers, one for each position of the longest sequence so far."""

    numbers = np.zeros(0, np.uint64)


def _weights(length: int) -> NDArray[np.uint64]:
    if length > len(_Weights.numbers):
        grown = np.arange(2 * length, dtype=np.uint64) * _POSITION + _TOKEN
        _Weights.numbers = (grown ^ (grown >> np.uint64(31))) * _TOKEN | np.uint64(1)
    return _Weights.numbers[:length]


class Remembered(Generic[T]):
    """The latest places, each with a value."""

    def __init__(self) -> None:
        self._tokens = np.zeros(_MOST, np.int64)
        self._hashes = np.zeros(_MOST, np.uint64)
        self._values: list[T | None] = [None] * _MOST
        # Where each hash is: one is found here faster than among all of them.
        self._slots: dict[int, int] = {}
        self._next = 0
        self._count = 0

    def reached(self, prompt: Prefixes) -> T | None:
        """What is remembered of the last place that a prompt reaches, before its own end."""
        tokens, hashes = self._tokens[: self._count], self._hashes[: self._count]
        within = (tokens < len(prompt)).nonzero()[0]
        same = within[prompt.at_all(tokens[within]) == hashes[within]]
        return self._values[int(same[tokens[same].argmax()])] if len(same) else None

    def known(self, prefixes: Prefixes, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some places, ``[n]``, are remembered."""
        slots = self._slots
        found = [number in slots for number in prefixes.at_all(places).tolist()]
        return np.array(found, np.bool_)

    def knows(self, prefixes: Prefixes, place: int) -> bool:
        """Whether a place is remembered."""
        return int(prefixes.at(place)) in self._slots

    def add(self, prefixes: Prefixes, tokens: int, value: T) -> None:
        """There is a place; the oldest one is forgotten for it."""
        before = int(self._hashes[self._next])
        if self._slots.get(before) == self._next:
            del self._slots[before]
        self._slots[int(prefixes.at(tokens))] = self._next
        self._tokens[self._next] = tokens
        self._hashes[self._next] = prefixes.at(tokens)
        self._values[self._next] = value
        self._next = (self._next + 1) % _MOST
        self._count = min(self._count + 1, _MOST)
