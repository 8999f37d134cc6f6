"""Where prompts tend to part, by the tokens before such places.

A *signature* is a hash of a few tokens. One is known once prompts have parted behind it. Of each
known one it is counted how often it went by, and at how many of these places prompts parted later;
its first occurrence in a prompt is counted apart from the others, as the end of a system prompt is
followed by the same marker as each message after it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WIDTH = 3
"""Tokens in a signature."""

REACH = 8
"""How far behind a known signature prompts still count as parting there, in tokens: the messages
that follow a marker may begin alike."""

_MOST = 1024
"""Signatures that are known at a time."""
_FULL = 64.0
"""Occurrences after which the counts of a signature are halved, so that they follow the traffic."""
# What is known of a signature that has just become known, in occurrences, and in partings.
_PRIOR_PASSED, _PRIOR_PARTED = 2.0, 0.2

# Odd numbers with bits of either kind all over: a product spreads each bit of a token.
_FACTORS = np.array([[0x9E3779B1], [0x85EBCA6B], [0xC2B2AE35]], np.uint32)
_OFFSETS = _FACTORS * np.array([[1], [2], [3]], np.uint32)
_FILTER_BITS = 16
_BLOCK = 1 << 15
"""Tokens that are hashed at a time: memory for more would take longer to get than the work."""
_NEAR = 512
"""Where to look first for an earlier one, in tokens."""
_NONE = np.zeros(0, np.int64)


class Found(NamedTuple):
    """Known signatures in a prompt, in order: where each ends, in tokens from the start of the
    prompt (int64 ``[n]``), and which it is (its key)."""

    places: NDArray[np.int64]
    keys: NDArray[np.int64]


class Name(NamedTuple):
    """What a key stands for, which outlives it."""

    signature: int
    later: int


class Read:
    """A prompt's signatures, hashed as they are asked for.

    Args:
        tokens: int64 ``[n]``.
    """

    __slots__ = ("_tokens",)

    def __init__(self, tokens: NDArray[np.int64]) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        """How many there are."""
        return max(len(self._tokens) - WIDTH + 1, 0)

    def between(self, start: int, end: int) -> NDArray[np.uint32]:
        """Those of tokens ``[i, i + WIDTH)``, ``start <= i < end``: uint32 ``[end - start]``."""
        ids = self._tokens[start : end + WIDTH - 1].astype(np.uint32)
        mixed = ids * _FACTORS + _OFFSETS
        count = end - start
        hashes = mixed[0, :count]
        for offset in range(1, WIDTH):
            hashes ^= mixed[offset, offset : offset + count]
        return hashes

    def before(self, place: int) -> int:
        """The signature that ends at a place, which has ``WIDTH`` tokens before it."""
        return int(self.between(place - WIDTH, place - WIDTH + 1)[0])


class Signatures:
    """Counts of known signatures.

    A key is ``2 * row + later``: ``later`` is 0 for a signature's first occurrence in a prompt.
    """

    def __init__(self) -> None:
        self._hashes = np.zeros(0, np.uint32)  # in order
        self._passed = np.zeros((0, 2))
        self._parted = np.zeros((0, 2))
        self._filter = np.zeros(1 << _FILTER_BITS, np.bool_)

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, prompt: Read, start: int) -> Found:
        """Known signatures that end behind ``start`` tokens."""
        first = max(start - WIDTH + 1, 0)
        places, rows = self._between(prompt, first, len(prompt))
        if not len(rows):
            return Found(places, rows)
        new, firsts = np.unique(rows, return_index=True)
        later = np.ones(len(rows), np.int64)
        later[firsts] = self._are_among(prompt, first, new)
        return Found(places, 2 * rows + later)

    def chances(self, keys: NDArray[np.int64]) -> NDArray[np.float64]:
        """How likely prompts are to part at places of these keys, ``[n]``, from 0 to 1."""
        rows, later = keys >> 1, keys & 1
        found: NDArray[np.float64] = self._parted[rows, later] / self._passed[rows, later]
        return np.minimum(found, 1.0)

    def passed(self, keys: NDArray[np.int64]) -> None:
        """A prompt has places of these keys, at which others may part from it."""
        cells = keys >> 1, keys & 1
        np.add.at(self._passed, cells, 1.0)
        if (self._passed[cells] >= _FULL).any():
            full = (self._passed >= _FULL).nonzero()
            self._passed[full] /= 2.0
            self._parted[full] /= 2.0

    def name(self, key: int) -> Name:
        """What a key stands for: it is good until another signature becomes known."""
        return Name(int(self._hashes[key >> 1]), key & 1)

    def used(self, name: Name) -> None:
        """A prompt has gone on from a place of this name."""
        row = self._rows_of(np.array([name.signature], np.uint32)).item()
        if row >= 0:
            self._parted[row, name.later] += 1.0

    def parted(self, prompt: Read, place: int) -> None:
        """Two prompts part at a place, in tokens, so that what stands before it is known."""
        if place >= WIDTH and not self._is_near_one(prompt, place):
            key = self._key(prompt, place)
            self._parted[key >> 1, key & 1] += 1.0

    def _is_near_one(self, prompt: Read, place: int) -> bool:
        """Whether a known signature ends so shortly before a place that this one counts there."""
        end = place - WIDTH + 1
        return bool((self._rows_of(prompt.between(max(end - REACH - 1, 0), end)) >= 0).any())

    def _key(self, prompt: Read, place: int) -> int:
        """The key of a signature that becomes known."""
        if len(self) == _MOST:
            self._forget_half()
        signature = np.uint32(prompt.before(place))
        row = int(self._hashes.searchsorted(signature))
        self._hashes = np.insert(self._hashes, row, signature)
        self._passed = np.insert(self._passed, row, _PRIOR_PASSED, axis=0)
        self._parted = np.insert(self._parted, row, _PRIOR_PARTED, axis=0)
        self._filter[signature >> np.uint32(32 - _FILTER_BITS)] = True
        later = self._are_among(prompt, place - WIDTH, np.array([row])).item()
        self._passed[row, int(later)] += 1.0
        return 2 * row + later

    def _between(
        self, prompt: Read, start: int, end: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of the known ones among a prompt's, from one number to another: where they end, in tokens
        from the start of the prompt, and their rows."""
        ends: list[NDArray[np.int64]] = []
        found: list[NDArray[np.uint32]] = []
        for begin in range(start, end, _BLOCK):
            hashes = prompt.between(begin, min(begin + _BLOCK, end))
            maybe = self._filter.take(hashes >> np.uint32(32 - _FILTER_BITS)).nonzero()[0]
            if len(maybe):
                ends.append(maybe + (begin + WIDTH))
                found.append(hashes[maybe])
        if not found:
            return _NONE, _NONE
        places, rows = np.concatenate(ends), self._rows_of(np.concatenate(found))
        known = rows >= 0
        return places[known], rows[known]

    def _are_among(self, prompt: Read, end: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows, ``[n]``, are among a prompt's first signatures, ``end`` of them."""
        seen, count = np.zeros(len(self), np.bool_), _NEAR
        while end > 0 and not seen[rows].all():
            start = max(end - count, 0)
            seen[self._between(prompt, start, end)[1]] = True
            end, count = start, _BLOCK
        return seen[rows]

    def _forget_half(self) -> None:
        """Those behind which prompts have parted least."""
        order = np.argsort(self._parted.sum(axis=1), kind="stable")
        kept = np.sort(order[len(order) // 2 :])
        self._hashes, self._passed, self._parted = (
            self._hashes[kept],
            self._passed[kept],
            self._parted[kept],
        )
        self._filter[:] = False
        self._filter[self._hashes >> np.uint32(32 - _FILTER_BITS)] = True

    def _rows_of(self, hashes: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The row of each, -1 where it is not known."""
        if not len(self):
            return np.full(len(hashes), -1, np.int64)
        rows = np.minimum(self._hashes.searchsorted(hashes), len(self) - 1)
        return np.where(self._hashes[rows] == hashes, rows, -1)
