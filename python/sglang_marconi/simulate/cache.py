"""What every simulated cache does: serve one request after the other within a budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from sglang_marconi.traces.requests import TraceRequest


class Budget(NamedTuple):
    """Bytes for the cache.

    ``total_bytes`` for states and KV together. With ``state_share`` it is cut into two pools
    that cannot lend to each other, as SGLang does it: the share from 0 to 1 goes to states.

    ``encoding``: what checkpoints may be demoted to where room is short. With two pools, an
    encoding other than ``exact`` means that the pool for states is a store of checkpoints, of
    which running requests take nothing.
    """

    total_bytes: int
    state_share: float | None = None
    encoding: str = "exact"


class SimulatedCache(ABC):
    """A prefix cache that keeps no tensors, only what it would hold.

    ``serve`` takes the requests in order of arrival, one at a time: it matches the prompt,
    makes room, and keeps what its policy admits of prompt and reply. The bytes held never
    exceed the budget. What a request says depends on nothing but the ones before it.
    """

    state_bytes_held: int = 0
    kv_bytes_held: int = 0
    peak_bytes: int = 0
    evictions: int = 0
    """States and leaves given up for room, each one counted."""
    demotions: int = 0
    """States that were kept in another form for room."""

    @abstractmethod
    def serve(self, request: TraceRequest) -> int:
        """Serve a request; returns how many tokens of its prompt were reused."""

    def serve_together(self, requests: Sequence[TraceRequest]) -> list[int]:
        """Serve requests that arrive together, of different sessions; what each of them reused.

        By default as if each came when the one before it has ended.
        """
        return [self.serve(request) for request in requests]

    def _note_peak(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.state_bytes_held + self.kv_bytes_held)
