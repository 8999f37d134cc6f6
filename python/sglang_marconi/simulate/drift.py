"""Whether the traffic is still what alpha was tuned on."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, variance
from typing import NamedTuple

DRIFT = 4.0
"""Standard errors between two windows that count as drift.

A window differs from the next by more than 2 in one of 20 cases without any drift, if its
requests are independent. They are not: the turns of a session are hit, or missed, together,
which makes the true error up to about twice what is estimated.
"""


class Sample(NamedTuple):
    """Hit fractions of requests: their mean, variance and number."""

    mean: float
    variance: float
    requests: int

    @classmethod
    def of(cls, fractions: Sequence[float]) -> Sample:
        """Of at least two requests."""
        mean = fmean(fractions)
        return cls(mean, variance(fractions, mean), len(fractions))


def drifted(before: Sample, now: Sample) -> bool:
    """Whether two windows differ by more than chance explains (Welch's t statistic)."""
    error = sqrt(before.variance / before.requests + now.variance / now.requests)
    return abs(now.mean - before.mean) > DRIFT * error
