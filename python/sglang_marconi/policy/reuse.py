"""How soon a checkpoint will be used again, from what the cache has seen: counts, no training.

Checkpoints are told apart by their `Kind`. Of each kind the model keeps, by age since the last
use, how many were used again and how long they were there to be used: an age's *rate* is the
one over the other, in uses for each tick of the policy's clock. Both fade, so that it follows
the traffic. What was seen corrects a guess made without it, at a hundredth of the others for
what a conversation has grown past. A correction is (uses seen + m) / (uses expected + m): m is
how many uses the guess is worth (the gamma-Poisson estimate; Gelman et al., Bayesian Data
Analysis, section 2.6). What to guess, and what a guess is worth, depends on the traffic: there are
several opinions, weighed by how well each predicted what came next (Bayesian model averaging,
the same book, section 7.4). Two have a rate that falls with age as ``1 / (age + 25)``; in the
others it rises first, up to an age of 16, 64, 256 or 1,024 (the hazard of a log-logistic
distribution): users and tools take their time, and a loop takes all of its length.

A rate may rise with age, where users or tools take their time to answer: what has just been used
is then not yet due, but will be. So a checkpoint is judged by the best rate of use over any span
from now on: the chance to be used in it, over the time it is expected to be held (the hit density
of Beckmann and Sanchez, "LHD: Improving Cache Hit Rate by Maximizing Hit Density", NSDI 2018).
"""

from __future__ import annotations

from enum import IntEnum
from math import log2

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]


class Kind(IntEnum):
    """What a checkpoint is to the tree."""

    END = 0
    """The end of a conversation, or of a prompt: nothing goes on from it yet."""
    OFFSHOOT = 1
    """The end of a request that left a branch point of its own, which nobody has used yet:
    where such requests come from one client, the next one resumes at the branch point."""
    OUTGROWN = 2
    """Its conversation goes on below it."""
    BRANCH_NEW = 3
    """A branch point, not used yet."""
    BRANCH_ONCE = 4
    BRANCH_TWICE = 5
    """Two or three times."""
    BRANCH_OFTEN = 6
    WAITED = 7
    """Requests that waited parted there."""
    DECLARED = 8
    """The application says that it will be used, which it was not yet."""
    END_LIKELY = 9
    """The end of a request, after tokens at which most go on."""
    END_UNLIKELY = 10
    """The same, after tokens at which few do."""
    PROMPT = 11
    """Predicted, not used yet: the end of a prompt."""
    PROMPT_LIKELY = 12
    PROMPT_USED = 13
    """The same, once it was used: often by what the conversation goes on with."""
    BOUNDARY = 14
    """Predicted, not used yet: a place inside a prompt. Once used, it is a branch point."""
    BOUNDARY_LIKELY = 15


ENDS = frozenset({Kind.END, Kind.OFFSHOOT})


class _Group(IntEnum):
    """Kinds that are much alike: what is seen of one tells of the others."""

    ENDS = 0
    OUTGROWN = 1
    BRANCHES = 2
    # Each of the others is known by what was seen of it alone.
    WAITED = 3
    DECLARED = 4
    END_LIKELY = 5
    END_UNLIKELY = 6
    PROMPT = 7
    PROMPT_LIKELY = 8
    PROMPT_USED = 9
    BOUNDARY = 10
    BOUNDARY_LIKELY = 11


# Of each kind.
_GROUP = np.array(
    [
        *[_Group.ENDS] * 2,
        _Group.OUTGROWN,
        *[_Group.BRANCHES] * 4,
        *[group for group in _Group if group > _Group.BRANCHES],
    ]
)


_BINS_PER_OCTAVE = 2
_BINS = 17 * _BINS_PER_OCTAVE
_EDGES = 2.0 ** (np.arange(_BINS + 1) / _BINS_PER_OCTAVE) - 1
_WIDTHS = np.diff(_EDGES)
_MIDDLES = 2.0 ** ((np.arange(_BINS) + 0.5) / _BINS_PER_OCTAVE) - 1
# A bin's count is smoothed with those beside it, by a Gaussian one bin wide.
_SMOOTH = np.exp(-0.5 * (np.arange(_BINS)[:, None] - np.arange(_BINS)) ** 2)

_EARLY_BINS = 16  # up to an age of 255
# A span has no bins before its first; [a bin, 1, the first].
_FROM_FIRST = np.tril(np.ones((_BINS, _BINS)))[:, None]
_TINY = 1e-300
_KINDS = np.arange(len(Kind))

_HALF_AGE = 25.0
_TURNING_AGES = (16.0, 64.0, 256.0, 1024.0)
_FALLING = 1.0 / (_MIDDLES + _HALF_AGE)
_SHAPES = (
    _FALLING,
    _FALLING,
    *(2.0 * _MIDDLES / (_MIDDLES**2 + age**2) for age in _TURNING_AGES),
)
# Chains of them stand under one end, each priced by all that is above it; what is hardly ever
# used has to be known for it early, or the ends, which save a turn each, go before them.
_OUTGROWN_SHARE = 0.01
# Parts of the rate that ends and branch points have before anything was seen.
_GROUP_SHARES = np.array([1.0, _OUTGROWN_SHARE, 1.0, 1.0, 1.0, 2.0, 0.1, 0.3, 1.0, 0.05, 0.3, 1.0])
# Of shape [opinions, groups, bins].
_GUESSES = np.stack([_GROUP_SHARES[:, None] * shape for shape in _SHAPES])

# What a guess is worth, in uses: of a group's level, a kind's level, an opinion's shape over ages.
_GROUP_WEIGHT, _KIND_WEIGHT = 2.0, 8.0
_SHAPE_WEIGHTS = np.array([20.0, 2.0, *(20.0 for _ in _TURNING_AGES)])
# To think otherwise than the first takes evidence: without it, caches of a dozen conversations
# lose.
_LOG_PRIOR = np.array([0.0, *(-3.0 for _ in _SHAPES[1:])])
_FADE = 0.9995
"""What a tick leaves of what was seen: half in 1,400 ticks, some 600 requests."""


def _bin(age: float) -> int:
    return min(int(_BINS_PER_OCTAVE * log2(age + 1.0)), _BINS - 1)


class ReuseModel:
    """Counts of uses and of time at risk, and the rates that follow from them.

    A few kilobytes: tables of shape ``[kinds, age bins]``. Ages are in ticks, 0 or more.
    """

    def __init__(self) -> None:
        self._uses = np.zeros((len(Kind), _BINS))
        self._time = np.zeros((len(Kind), _BINS))
        # The two as they were when the rates were last estimated, and the opinions then.
        self._uses_before, self._time_before = self._uses, self._time
        self._opinions = self._hazards()
        self._log_likelihood = np.zeros(len(_SHAPES))
        self._ends = 0.0
        self.estimate(0.0)

    def stored_end(self) -> None:
        """There is a new end of a conversation, or of a prompt."""
        self._ends += 1.0

    def share_of_ends_used(self) -> float:
        """Uses of ends for each one stored, those long ago counting less."""
        return float(self._uses[_GROUP == _Group.ENDS].sum()) / max(self._ends, 1.0)

    def used(self, kind: int, age: float) -> None:
        """One of this kind was used, so long after its last use."""
        self._uses[kind, _bin(age)] += 1.0

    def waited(self, kind: int, start: float, end: float) -> None:
        """One of this kind was there to be used, from one age to another."""
        first, last = _bin(start), _bin(end)
        time = self._time[kind]
        if first == last:
            time[first] += end - start
            return
        time[first] += _EDGES[first + 1] - start
        time[first + 1 : last] += _WIDTHS[first + 1 : last]
        time[last] += end - _EDGES[last]

    def all_waited(self, kinds: _Floats, starts: _Floats, ends: _Floats) -> None:
        """As `waited`, for many, roughly: arrays of shape ``[n]``.

        Late bins are wide: time in one of them counts where its middle lies.
        """
        early = ends <= _EDGES[_EARLY_BINS]
        low, high = _EDGES[:_EARLY_BINS], _EDGES[1 : _EARLY_BINS + 1]
        parts = np.clip(ends[early, None], low, high) - np.clip(starts[early, None], low, high)
        self._time[:, :_EARLY_BINS] += (kinds[early] == _KINDS[:, None]) @ parts
        late = ~early
        spans = ends[late] - starts[late]
        bins = np.log2(starts[late] + 0.5 * spans + 1.0) * _BINS_PER_OCTAVE
        cells = kinds[late] * _BINS + np.minimum(bins.astype(np.int64), _BINS - 1)
        found = np.bincount(cells.astype(np.int64), weights=spans, minlength=self._time.size)
        self._time += found.reshape(self._time.shape)

    def estimate(self, ticks: float) -> None:
        """Let ``ticks`` pass, and bring what `rate` answers up to date."""
        fade = _FADE**ticks
        uses, time = self._uses - self._uses_before, self._time - self._time_before
        self._log_likelihood *= fade
        expected = uses * np.log(self._opinions) - time * self._opinions
        self._log_likelihood += expected.sum(axis=(1, 2))
        self._uses *= fade
        self._time *= fade
        self._ends *= fade
        self._uses_before, self._time_before = self._uses.copy(), self._time.copy()
        self._opinions = self._hazards()
        support = self._log_likelihood + _LOG_PRIOR
        shares = np.exp(support - support.max())
        self._rates = _densities(np.tensordot(shares / shares.sum(), self._opinions, axes=1))

    def rate(self, kind: int, age: float) -> float:
        """Uses to expect for each tick that one of this kind and age is kept."""
        at = min(max(_BINS_PER_OCTAVE * log2(age + 1.0) - 0.5, 0.0), _BINS - 1.001)
        low = int(at)
        share = at - low
        rates = self._rates[kind]
        return float(rates[low] * (1.0 - share) + rates[low + 1] * share)

    def rates(self, kinds: _Floats, ages: _Floats) -> _Floats:
        """As `rate`, for many: arrays of shape ``[n]``."""
        at = np.clip(_BINS_PER_OCTAVE * np.log2(ages + 1.0) - 0.5, 0.0, _BINS - 1.001)
        low = at.astype(np.int64)
        share = at - low
        flat = kinds.astype(np.int64) * _BINS + low
        found: _Floats = np.take(self._rates, flat) * (1.0 - share)
        return found + np.take(self._rates, flat + 1) * share

    def _hazards(self) -> _Floats:
        """Uses for each tick at an age, given none before it; shape ``[opinions, kinds, bins]``."""
        uses, time = _by_group(self._uses), _by_group(self._time)
        level = (uses.sum() + 1.0) / ((time * _GUESSES).sum(axis=(1, 2)) + 1.0)
        groups = _corrected(_GUESSES * level[:, None, None], uses, time, _GROUP_WEIGHT)
        return _corrected(groups[:, _GROUP], self._uses, self._time, _KIND_WEIGHT)


def _by_group(counts: _Floats) -> _Floats:
    sums = np.zeros((len(_Group), _BINS))
    for group, row in zip(_GROUP, counts, strict=True):
        sums[group] += row
    return sums


def _corrected(guesses: _Floats, uses: _Floats, time: _Floats, weight: float) -> _Floats:
    """Each opinion's guess of rates, its level and then its shape moved towards what was seen."""
    levels = (uses.sum(axis=1) + weight) / ((time * guesses).sum(axis=2) + weight)
    rates = guesses * levels[:, :, None]
    seen, expected = uses @ _SMOOTH, (time * rates) @ _SMOOTH
    weights = _SHAPE_WEIGHTS[:, None, None]
    found: _Floats = rates * (seen + weights) / (expected + weights)
    return found


def _densities(hazards: _Floats) -> _Floats:
    """The best rate of use over any span of bins from each bin on."""
    risk = hazards * _WIDTHS
    before = np.cumsum(risk, axis=1) - risk
    # [a bin of a span, kind, first bin of the span], in which numpy sums fastest: the chance to
    # reach the bin unused, then to be used in it, and with it all before.
    used = before - before.T[:, :, None]
    np.minimum(used, 0.0, out=used)
    np.exp(used, out=used)
    used *= _FROM_FIRST
    used *= -np.expm1(-risk).T[:, :, None]
    held = used / hazards.T[:, :, None]
    np.cumsum(held, axis=0, out=held)
    np.cumsum(used, axis=0, out=used)
    used /= np.maximum(held, _TINY, out=held)
    best: _Floats = used.max(axis=0)
    return best
