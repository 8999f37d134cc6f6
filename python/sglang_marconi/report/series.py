"""Curves from records: every request counts, few points are left to draw."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sglang_marconi.records import RequestRecord

Floats = NDArray[np.float64]
_Indices = NDArray[np.intp]

# About as many as a plot is wide, in pixels.
MOST_POINTS = 1000


class Curve(NamedTuple):
    x: Floats
    y: Floats


class Holdings(NamedTuple):
    """Bytes of states and of KV in a cache, over time."""

    time: Floats
    states: Floats
    kv: Floats


def hit_rate_so_far(requests: Sequence[RequestRecord]) -> Curve:
    """Hit tokens over prompt tokens of all requests up to each arrival.

    A long run is cut into ``MOST_POINTS`` stretches of time; the first request and the last one
    of each stretch are kept, so that what is kept is exact.
    """
    ordered = _by_arrival(requests)
    times = _floats(record.arrival for record in ordered)
    hits = np.cumsum(_floats(record.hit_tokens for record in ordered))
    prompts = np.cumsum(_floats(record.prompt_tokens for record in ordered))
    rates = np.divide(hits, prompts, out=np.zeros_like(hits), where=prompts > 0)
    kept = np.union1d([0], _ends(_stretches(times)))
    return Curve(times[kept], rates[kept])


def holdings(requests: Sequence[RequestRecord]) -> Holdings | None:
    """What the cache holds after each request that says so; ``None`` if none does.

    A long run is cut into ``MOST_POINTS`` stretches of time, and each stands for its fullest
    moment: the peaks are what a budget is compared with.
    """
    measured = _by_arrival(
        record
        for record in requests
        if record.state_bytes is not None and record.kv_bytes is not None
    )
    if not measured:
        return None
    times = _floats(record.arrival for record in measured)
    states = _floats(record.state_bytes or 0 for record in measured)
    kv = _floats(record.kv_bytes or 0 for record in measured)
    stretches = _stretches(times)
    kept = np.lexsort((states + kv, stretches))[_ends(stretches)]
    return Holdings(times[kept], states[kept], kv[kept])


def distribution(values: Iterable[float]) -> Curve:
    """The share of values that each value is not below, at ``MOST_POINTS`` even steps or all."""
    ordered = np.sort(_floats(values))
    size = len(ordered)
    kept = np.unique(np.linspace(0, size - 1, min(size, MOST_POINTS)).round().astype(np.intp))
    return Curve(ordered[kept], (kept + 1) / size)


def _by_arrival(requests: Iterable[RequestRecord]) -> list[RequestRecord]:
    return sorted(requests, key=lambda record: record.arrival)


def _floats(values: Iterable[float]) -> Floats:
    return np.fromiter(values, dtype=np.float64)


def _stretches(times: Floats) -> _Indices:
    """For each of the rising times, the number of the stretch it is in."""
    if len(times) <= MOST_POINTS:
        return np.arange(len(times))
    elapsed = times - times[0]
    width = max(elapsed[-1], np.finfo(np.float64).tiny) / MOST_POINTS
    numbers: _Indices = np.minimum(elapsed / width, MOST_POINTS - 1).astype(np.intp)
    return numbers


def _ends(stretches: _Indices) -> _Indices:
    """Where the rising numbers of stretches are about to change, and the last place."""
    return np.flatnonzero(np.diff(stretches, append=MOST_POINTS))
