"""Places of past requests, remembered without their tokens: which of them does a prompt reach?

What is learned must not depend on what the cache happens to hold: where memory is short, what is
not kept would never be seen to be used, and so never be kept.

A prefix is known by a hash, the weighted sum of its tokens and of their number: one pass of numpy
finds those of all prefixes of a prompt, and what comes after a prefix is added to its hash.
Nothing but a guess hangs on two prefixes that have the same.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_MOST = 4096
"""Places that are remembered at a time."""
_LENGTH, _POSITION = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95
_MASK = (1 << 64) - 1


def hash_of(tokens: NDArray[np.int64], start: int = 0, before: int = 0) -> int:
    """The hash of a sequence, int64 ``[n]``, as of all its prefixes.

    ``start`` and ``before``: the tokens that need not be read again, and the hash of these; or 0,
    and the number of a namespace, below 2**64, whose sequences share nothing with others.
    """
    new = tokens[start:].view(np.uint64)
    return _hash(before, int(new @ _weights(len(tokens))[start:]), len(new))


def _hash(before: int, weighted: int, tokens: int) -> int:
    # By its weighted sum alone, a last token of 0 would make no difference.
    return (before + weighted + tokens * _LENGTH) & _MASK


class Prefixes:
    """The hashes of one prompt's prefixes, until it reads another one: it uses its room again, as
    to be given memory for a long prompt takes longer than the work."""

    def __init__(self) -> None:
        self._room = self._sums = np.zeros(0, np.uint64)
        self._namespace = 0

    def read(self, tokens: NDArray[np.int64], namespace: int = 0) -> None:
        """A prompt, int64 ``[n]``, and its namespace as in `hash_of`."""
        count = len(tokens)
        if count > len(self._room):
            self._room = np.empty(2 * count, np.uint64)
        self._sums = self._room[:count]
        np.multiply(tokens.view(np.uint64), _weights(count), out=self._sums)
        np.cumsum(self._sums, out=self._sums)
        self._namespace = namespace

    def __len__(self) -> int:
        """Tokens of the prompt."""
        return len(self._sums)

    def at(self, tokens: int) -> int:
        """The hash of its first ``tokens``."""
        return _hash(self._namespace, self._sums.item(tokens - 1) if tokens else 0, tokens)

    def at_all(self, tokens: NDArray[np.int64]) -> list[int]:
        """The same for many, ``[n]``, all more than 0."""
        hashes = self.weighted(tokens - 1)
        hashes += tokens.view(np.uint64) * np.uint64(_LENGTH)
        found: list[int] = hashes.tolist()
        return found

    def weighted(self, last: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The hashes, but for the number of tokens, of the prefixes with these last tokens, ``[n]``
        from 0; behind its end, that of all of it. It has one token or more."""
        sums = self._sums.take(last, mode="clip")
        if self._namespace:
            sums += np.uint64(self._namespace)
        return sums


class _Weights:
    """Odd numbers, one for each position of the longest sequence so far."""

    numbers = np.zeros(0, np.uint64)


def _weights(length: int) -> NDArray[np.uint64]:
    if length > len(_Weights.numbers):
        factor = np.uint64(_LENGTH)
        grown = np.arange(2 * length, dtype=np.uint64) * np.uint64(_POSITION) + factor
        _Weights.numbers = (grown ^ (grown >> np.uint64(31))) * factor | np.uint64(1)
    return _Weights.numbers[:length]


class Remembered(Generic[T]):
    """The latest places, each with a value."""

    def __init__(self) -> None:
        # Of each place the last token, from 0, and the hash but for the number of tokens.
        self._last = np.zeros(_MOST, np.int64)
        self._weighted = np.zeros(_MOST, np.uint64)
        self._hashes = [0] * _MOST
        self._values: list[T | None] = [None] * _MOST
        # Where each hash is: one is found here faster than among all of them.
        self._slots: dict[int, int] = {}
        self._next = 0
        self._count = 0

    def reached(self, prompt: Prefixes) -> T | None:
        """What is remembered of the last place that a prompt reaches, before its own end."""
        if not self._count or not len(prompt):
            return None
        last = self._last[: self._count]
        same = (prompt.weighted(last) == self._weighted[: self._count]).nonzero()[0]
        same = same[last[same] < len(prompt) - 1]
        return self._values[int(same[last[same].argmax()])] if len(same) else None

    def known(self, prompt: Prefixes, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some places in a prompt, ``[n]`` in tokens, are remembered."""
        slots = self._slots
        return np.array([each in slots for each in prompt.at_all(places)], np.bool_)

    def __contains__(self, hashed: int) -> bool:
        """Whether a place is remembered, by its hash."""
        return hashed in self._slots

    def add(self, hashed: int, tokens: int, value: T) -> None:
        """There is a place after so many tokens; the oldest one is forgotten for it."""
        slot = self._next
        before = self._hashes[slot]
        if self._slots.get(before) == slot:
            del self._slots[before]
        self._slots[hashed] = slot
        self._last[slot] = tokens - 1
        self._weighted[slot] = (hashed - tokens * _LENGTH) & _MASK
        self._hashes[slot] = hashed
        self._values[slot] = value
        self._next = (slot + 1) % _MOST
        self._count = min(self._count + 1, _MOST)
