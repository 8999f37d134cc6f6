"""What a server's answers vary by without any reuse, and what is too much for that. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite, sqrt

ROUNDING = 1e-4
"""Nats. What another order of sums makes of log probabilities in float32."""

_FACTOR = 3.0
"""A shift counts as noise up to so many times the largest that was seen.

Warm answers are several times as many as calibrating ones, so their largest is larger; and the
tails are not Gaussian (bfloat16 logits come in steps, experts change places).
"""

_RUNS = (1, 2, 4, 8, 16, 32)


class Noise:
    """Learnt from comparisons of cold answers to the same prompts.

    A wrong state shifts many tokens in a row, noise each on its own. So not only single shifts
    are compared, but the root mean square over runs of 1, 2, 4, ... successive tokens with that
    over as many in the noisiest place of the calibration. The more tokens, the smaller a lasting
    shift may be and still be seen.
    """

    def __init__(self, samples: Iterable[Sequence[float]]) -> None:
        """``samples``: the shifts (nats) of each comparison."""
        self._samples = [sample for sample in samples if sample]
        self._bounds = {run: self._bound(run) for run in _RUNS}

    @property
    def largest(self) -> float:
        """The largest shift of a single token."""
        return max((max(sample) for sample in self._samples), default=0.0)

    def bound(self, run: int = 1) -> float:
        """What the root mean square over a run of so many tokens may be; a power of two."""
        return self._bounds[run]

    def excess(self, shifts: Sequence[float]) -> float:
        """How often the noisiest run of the shifts exceeds its bound: above 1, no noise does it."""
        return max(
            (
                _noisiest(shifts, run) / bound
                for run, bound in self._bounds.items()
                if run <= len(shifts) and isfinite(bound)
            ),
            default=0.0,
        )

    def _bound(self, run: int) -> float:
        # Where replies parted earlier there is no run so long; then what there is has to do.
        samples = [sample for sample in self._samples if len(sample) >= run] or self._samples
        noisiest = max((_noisiest(sample, run) for sample in samples), default=0.0)
        return max(ROUNDING, _FACTOR * noisiest)


def _noisiest(shifts: Sequence[float], run: int) -> float:
    """The largest root mean square over so many successive shifts, or all if there are fewer."""
    run = min(run, len(shifts))
    sums = [
        sum(shift * shift for shift in shifts[start : start + run])
        for start in range(len(shifts) - run + 1)
    ]
    return sqrt(max(sums) / run)
