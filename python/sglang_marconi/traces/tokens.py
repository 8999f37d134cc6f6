"""Token sequences as runs, so that a trace of millions of tokens is compared by its blocks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_Ints = NDArray[np.int64]

_PLACE_BITS = 20


class Tokens:
    """A sequence of tokens, kept as runs.

    A run is a number and a length and stands for tokens that occur in no other run of
    another number: run ``i`` of length 3 is the tokens (i, 0), (i, 1), (i, 2). A text of
    plain token ids has runs of length 1; a trace that gives a hash for each block of 512
    tokens has runs of 512, the last one cut short.

    ``ids``: the runs' numbers, int64. ``ends``: how many tokens there are up to the end of
    each run, int64, rising; views of one array are views of its beginning.
    """

    __slots__ = ("ends", "ids")

    def __init__(self, ids: _Ints, ends: _Ints) -> None:
        self.ids = ids
        self.ends = ends

    @classmethod
    def plain(cls, ids: Iterable[int] | _Ints) -> Tokens:
        """Plain token ids."""
        array = np.fromiter(ids, np.int64) if not isinstance(ids, np.ndarray) else ids
        return cls(array, np.arange(1, len(array) + 1))

    @classmethod
    def blocks(cls, hashes: Iterable[int], block: int, length: int) -> Tokens:
        """``length`` tokens in blocks of ``block``, each known by a hash; the last may be cut.

        Raises ``ValueError`` where the hashes are not as many as the length takes.
        """
        ids = np.fromiter(hashes, np.int64)
        if len(ids) != -(-length // block):
            raise ValueError(f"{len(ids)} blocks of {block} tokens do not make {length} tokens")
        ends = np.arange(1, len(ids) + 1) * block
        if length:
            ends[-1] = length
        return cls(ids, ends)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def is_plain(self) -> bool:
        """Whether its runs are tokens, so that ``ids`` are their ids."""
        return len(self) == len(self.ids)

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            np.concatenate((self.ids, other.ids)),
            np.concatenate((self.ends, other.ends + len(self))),
        )

    def numbers(self) -> _Ints:
        """A number for each token, int64 of shape ``[tokens]``: equal where the tokens are.

        Expects runs shorter than 2^20 tokens and numbers of runs below 2^43.
        """
        if self.is_plain:
            return self.ids << _PLACE_BITS
        lengths = np.diff(self.ends, prepend=0)
        places = np.arange(len(self)) - np.repeat(self.ends - lengths, lengths)
        return (np.repeat(self.ids, lengths) << _PLACE_BITS) + places

    def common_prefix(self, other: Tokens) -> int:
        """How many tokens both start with."""
        runs = min(len(self.ids), len(other.ids))
        differ = self.ids[:runs] != other.ids[:runs]
        differ |= self.ends[:runs] != other.ends[:runs]
        at = int(differ.argmax()) if runs else 0
        if not runs or not differ[at]:
            return min(len(self), len(other))
        if self.ids[at] == other.ids[at]:
            return int(min(self.ends[at], other.ends[at]))
        return int(self.ends[at - 1]) if at else 0

    def expand(self) -> list[tuple[int, int]]:
        """Every token, as its run's number and its place in the run; slow, for checking."""
        lengths = np.diff(self.ends, prepend=0)
        return [
            (int(number), place)
            for number, length in zip(self.ids, lengths, strict=True)
            for place in range(int(length))
        ]
