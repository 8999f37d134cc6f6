"""A buffer of pages of one size, and which of them are free."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import chain

import torch

Runs = Sequence[range]
"""Page numbers: runs of neighbours, in ascending order."""


class PageArena:
    """Pages in a buffer, uint8 ``[pages, page_bytes]``, none of them ever zeroed.

    Any pages serve, so nothing fragments; where there is a run of free ones that is long enough
    it is taken, so that a copy of them is one copy. Taking and giving back take time in proportion
    to the free runs, of which there are about as many as checkpoints. Which pages are taken depends
    on the calls alone, so that it is the same on every rank.

    ``reserved`` pages are kept back for what must not fail, such as the room that a checkpoint
    needs while it is re-encoded.
    """

    def __init__(self, buffer: torch.Tensor, *, reserved: int = 0) -> None:
        self.buffer = buffer
        self.pages = len(buffer)
        self.reserved = reserved
        self.clear()

    def clear(self) -> None:
        """All pages are free."""
        self._free = self.pages
        # Of each free run, in ascending order; no two of them touch.
        self._starts = [0] if self.pages else []
        self._stops = [self.pages] if self.pages else []

    @property
    def available(self) -> int:
        """Free pages beside the reserved ones; negative while those are in use."""
        return self._free - self.reserved

    def take(self, count: int, *, from_reserve: bool = False) -> Runs | None:
        """``count`` pages, now in use; ``None``, and none taken, where they lack."""
        if count > (self._free if from_reserve else self.available):
            return None
        self._free -= count
        lengths = [stop - start for start, stop in zip(self._starts, self._stops, strict=True)]
        # The first run with room, else the longest ones.
        chosen = [at for at, length in enumerate(lengths) if length >= count][:1]
        chosen = chosen or sorted(range(len(lengths)), key=lambda at: -lengths[at])
        taken = []
        for at in chosen:
            start = self._starts[at]
            length = min(count, lengths[at])
            taken.append(range(start, start + length))
            self._starts[at] += length
            count -= length
            if not count:
                break
        left = [at for at, start in enumerate(self._starts) if start < self._stops[at]]
        self._starts = [self._starts[at] for at in left]
        self._stops = [self._stops[at] for at in left]
        return sorted(taken, key=lambda run: run.start)

    def give_back(self, runs: Runs) -> None:
        """The pages are free again; what they hold may be overwritten from now on."""
        for run in runs:
            self._free += len(run)
            at = bisect_left(self._starts, run.start)
            joins_before = at > 0 and self._stops[at - 1] == run.start
            joins_after = at < len(self._starts) and self._starts[at] == run.stop
            if joins_before and joins_after:
                self._stops[at - 1] = self._stops[at]
                del self._starts[at], self._stops[at]
            elif joins_before:
                self._stops[at - 1] = run.stop
            elif joins_after:
                self._starts[at] = run.start
            else:
                self._starts.insert(at, run.start)
                self._stops.insert(at, run.stop)


def page_count(runs: Runs) -> int:
    return sum(map(len, runs))


def page_numbers(runs: Iterable[range]) -> list[int]:
    return list(chain.from_iterable(runs))
