"""The paper's policy with its alpha found while serving, as a server's sidecar finds it."""

from __future__ import annotations

from collections.abc import Callable

from sglang_marconi.simulate.cache import SimulatedCache
from sglang_marconi.simulate.radix_cache import RadixCache
from sglang_marconi.simulate.replays import ParallelReplays
from sglang_marconi.simulate.tuner import Tuner
from sglang_marconi.traces.requests import TraceRequest


class TunedCache(SimulatedCache):
    """Serves as the tuner's shadow of a live cache does; a new alpha counts from the next request.

    ``empty_cache`` makes a cache whose valuation has an alpha. A server goes on serving while
    candidates are replayed, so there a new alpha comes some requests later.
    """

    def __init__(self, empty_cache: Callable[[], RadixCache]) -> None:
        self._tuner = Tuner(empty_cache)

    def serve(self, request: TraceRequest) -> int:
        job = self._tuner.serve(request)
        cache = self._tuner.shadow
        self.state_bytes_held = cache.state_bytes_held
        self.kv_bytes_held = cache.kv_bytes_held
        self.peak_bytes = cache.peak_bytes
        self.evictions, self.demotions = cache.evictions, cache.demotions
        hit = self._tuner.last_hit
        if job is not None:
            self._tuner.adopt(ParallelReplays(job).collect())
        return hit
