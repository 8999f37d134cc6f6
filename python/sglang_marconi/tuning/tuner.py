"""Which alpha would have served the latest requests best: what to replay, and when.

Marconi, arXiv 2411.19379, section 4.3. Pure: replaying is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sglang_marconi.simulate.two_pools import TwoPoolCache
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.tuning.drift import Sample, drifted
from sglang_marconi.tuning.messages import Setup
from sglang_marconi.tuning.shadow import set_alpha, shadow_cache

WINDOW = 5
"""Requests in a window, for each that came before the first eviction (the paper: 5 to 15)."""

SHORTEST, LONGEST = 50, 1_000
"""Requests in a window, whatever came before the first eviction.

Fewer than 50 say little of a hit rate, and a mean's standard error is unsure. 1,000 bound the
work (each is replayed once for each candidate) and the memory (4 bytes a token).
"""


class Replay(NamedTuple):
    """How a window went under one alpha: tokens reused, and the requests' hit fractions."""

    hit_tokens: int
    fractions: Sample


class Job(NamedTuple):
    """A window to replay under each of the candidates, each from the same ``start``.

    ``start`` is the tuner's own, as it was before the window: it is good until the tuner
    serves its next request, and each replay needs a copy. A forked process has one.
    """

    start: TwoPoolCache
    requests: Sequence[TraceRequest]
    candidates: Sequence[float]

    def replay(self, alpha: float) -> Replay:
        """Replay the window on ``start`` itself."""
        set_alpha(self.start, alpha)
        hits = [self.start.serve(request) for request in self.requests]
        return Replay(sum(hits), Sample.of(_fractions(hits, self.requests)))

    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(request.prompt) for request in self.requests)


class Tuner:
    """Follows the live cache with a shadow of it, and says when to replay which requests.

    The first window begins after the first eviction, since before it all alphas are the same,
    and is replayed. Later ones are replayed if their hit fractions differ from what the chosen
    alpha gave in the window it was chosen for: then the traffic has changed. An alpha that
    came into force begins a window, so that each window has one alpha.
    """

    def __init__(self, setup: Setup) -> None:
        self._candidates = setup.candidates
        self.alpha = setup.alpha
        self._shadow = shadow_cache(setup)
        # A second shadow stays behind at the window's start, which is cheaper than a copy.
        self._start = shadow_cache(setup)
        self._before_eviction = 0
        self._window_length: int | None = None
        self._window: list[TraceRequest] = []
        self._hits: list[int] = []
        self._tuned_on: Sample | None = None
        self._job_runs = False

    @property
    def window_length(self) -> int | None:
        """Requests in a window; ``None`` before the first eviction."""
        return self._window_length

    def serve(self, request: TraceRequest) -> Job | None:
        """The live cache has finished a request; perhaps there is something to replay now.

        While a job runs, until `adopt` or `give_up`, there is no other.
        """
        if self._window_length is None:
            self._find_length(request, self._shadow.serve(request))
            return None
        if len(self._window) == self._window_length:
            self._begin_window()
        self._hits.append(self._shadow.serve(request))
        self._window.append(request)
        full = len(self._window) == self._window_length
        if not full or self._job_runs or not self._is_due():
            return None
        self._job_runs = True
        return Job(self._start, tuple(self._window), self._candidates)

    def adopt(self, replays: Mapping[float, Replay]) -> float:
        """The job is done: choose the alpha that reused most tokens, and go on with it.

        Of equally good ones the current alpha, then the smallest, nearest to LRU.
        """
        self._begin_window()
        self.alpha = max(
            replays, key=lambda alpha: (replays[alpha].hit_tokens, alpha == self.alpha, -alpha)
        )
        self._tuned_on = replays[self.alpha].fractions
        set_alpha(self._shadow, self.alpha)
        set_alpha(self._start, self.alpha)
        self._job_runs = False
        return self.alpha

    def give_up(self) -> None:
        """The job failed."""
        self._job_runs = False

    def _find_length(self, request: TraceRequest, hit: int) -> None:
        self._start.serve(request)
        self._before_eviction += 1
        if self._shadow.evictions:
            length = WINDOW * self._before_eviction
            self._window_length = min(max(length, SHORTEST), LONGEST)

    def _begin_window(self) -> None:
        for request in self._window:
            self._start.serve(request)
        self._window.clear()
        self._hits.clear()

    def _is_due(self) -> bool:
        if self._tuned_on is None:
            return True
        return drifted(self._tuned_on, Sample.of(_fractions(self._hits, self._window)))


def _fractions(hits: Sequence[int], requests: Sequence[TraceRequest]) -> list[float]:
    return [hit / len(request.prompt) for hit, request in zip(hits, requests, strict=True)]
