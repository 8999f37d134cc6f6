"""The paper's policy with its alpha found while serving."""

from __future__ import annotations

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.eviction import SharedBudgetEviction
from sglang_marconi.policy.utility import PaperUtility
from sglang_marconi.simulate.cache import SimulatedCache
from sglang_marconi.simulate.shared_budget import SharedBudgetCache
from sglang_marconi.traces.requests import TraceRequest

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
WINDOW = 5
"""Requests in the window, for each request that came before the first eviction (the paper: 5
to 15, section 4.3)."""


class TunedCache(SimulatedCache):
    """LRU until a window of requests is full; then the alpha that would have served it best.

    The candidates are replayed from the beginning of the trace: up to the first eviction they
    are all the same.
    """

    def __init__(self, cost: ModelCost, total_bytes: int) -> None:
        self._cost = cost
        self._total = total_bytes
        self._utility = PaperUtility(0.0)
        self._cache = self._with(self._utility)
        self._seen: list[TraceRequest] | None = []
        self._before_eviction: int | None = None

    def serve(self, request: TraceRequest) -> int:
        hit = self._cache.serve(request)
        self.state_bytes_held = self._cache.state_bytes_held
        self.kv_bytes_held = self._cache.kv_bytes_held
        self.peak_bytes = self._cache.peak_bytes
        self.evictions = self._cache.evictions
        if self._seen is not None:
            self._seen.append(request)
            self._tune_if_full(self._seen)
        return hit

    def _tune_if_full(self, seen: list[TraceRequest]) -> None:
        if self._before_eviction is None and self.evictions:
            self._before_eviction = len(seen)
        if self._before_eviction is None or len(seen) < self._before_eviction * (1 + WINDOW):
            return
        # Of equally good ones the smallest, nearest to LRU.
        best = max(ALPHAS, key=lambda alpha: (self._hits(seen, alpha), -alpha))
        self._utility.alpha = best
        self._seen = None

    def _hits(self, requests: list[TraceRequest], alpha: float) -> int:
        cache = self._with(PaperUtility(alpha))
        return sum(cache.serve(request) for request in requests)

    def _with(self, utility: PaperUtility) -> SharedBudgetCache:
        return SharedBudgetCache(self._cost, SharedBudgetEviction(self._cost, utility), self._total)
