"""How likely a place is to be resumed at, by the tokens before it.

Places are counted by classes, from all of them to those that have the same tokens before them. A
class corrects what the wider one says, the more, the more places it has (a beta prior at each
step; Gelman et al., Bayesian Data Analysis, section 2.4).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from numpy import int64
from numpy.typing import NDArray

Keys = tuple[Hashable, ...]
"""What a place is known by, the widest class first."""

_MOST = 4096
"""Classes that are known at a time."""
_FULL = 256.0
"""Places after which the counts of a class are halved, so that they follow the traffic."""
_WEIGHT = 4.0
"""How many places what a wider class says is worth."""


class Likelihood:
    """Counts of places, and of those that were resumed at, by class.

    Args:
        widths: how many tokens before a place tell its class, in rising order; the widest class,
            of all places, comes before them.
        prior: the chance before anything was counted, from 0 to 1.
    """

    def __init__(self, widths: Sequence[int], prior: float) -> None:
        self._widths = tuple(widths)
        self._prior = prior
        # Places and uses of each class; in the order in which they were last counted.
        self._counts: dict[Hashable, tuple[float, float]] = {}

    def keys(self, tokens: NDArray[int64], place: int, came: int | None = None) -> Keys:
        """The classes of a place, in tokens from the start of ``tokens``, int64 ``[n]``.

        ``came``, if it is given, tells places apart before their tokens do.
        """
        before = [tokens[max(place - width, 0) : place].tobytes() for width in (0, *self._widths)]
        # Where few tokens come before it, classes are the same, and count once.
        found = dict.fromkeys(before)
        return tuple(found) if came is None else (b"", *((came, each) for each in found))

    def chance(self, keys: Keys) -> float:
        """How likely a place of these classes is to be resumed at, from 0 to 1."""
        chance = self._prior
        for key in keys:
            places, used = self._counts.get(key, (0.0, 0.0))
            chance = (used + _WEIGHT * chance) / (places + _WEIGHT)
        return min(chance, 1.0)

    def average(self) -> float:
        """The same for any place."""
        return self.chance((b"",))

    def passed(self, keys: Keys) -> None:
        """There is such a place."""
        for key in keys:
            places, used = self._counts.pop(key, (0.0, 0.0))
            if places >= _FULL:
                places, used = places / 2.0, used / 2.0
            self._counts[key] = places + 1.0, used
        while len(self._counts) > _MOST:
            del self._counts[next(iter(self._counts))]

    def used(self, keys: Keys) -> None:
        """A prompt has resumed at such a place, or would have."""
        for key in keys:
            if key in self._counts:
                places, used = self._counts[key]
                self._counts[key] = places, used + 1.0
