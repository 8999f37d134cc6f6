"""One trace through one policy with one budget, as records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

import msgspec

from sglang_marconi.cost import ModelCost
from sglang_marconi.cost.latency import LatencyProfile
from sglang_marconi.records import RequestRecord, RunRecord, run_record
from sglang_marconi.simulate.arrivals import groups
from sglang_marconi.simulate.cache import Budget
from sglang_marconi.simulate.policies import UNLIMITED, build_cache
from sglang_marconi.traces.requests import TraceRequest


class Setup(NamedTuple):
    """What a run simulates; ``model`` is how records call what ``cost`` is the cost of.

    Without a ``latency`` profile no times to first token are given. ``concurrency``: how many
    requests arrive together, and ``None`` for those that do by the trace's arrival times.
    """

    trace: str
    policy: str
    model: str
    cost: ModelCost
    budget: Budget
    latency: LatencyProfile | None = None
    concurrency: int | None = 1

    @property
    def label(self) -> str:
        """How records call the policy: with the encoding, unless that is ``exact``."""
        encoding = self.budget.encoding
        return self.policy if encoding == "exact" else f"{self.policy} {encoding}"


class Run(NamedTuple):
    """What came out."""

    run: RunRecord
    requests: list[RequestRecord]


def simulate(
    setup: Setup,
    requests: Sequence[TraceRequest],
    on_request: Callable[[], None] = lambda: None,
) -> Run:
    """Serve a trace, which must not be empty; ``on_request`` is called after each request.

    Records are in the order in which requests were served. Bytes are those that are held when all
    that arrived together have ended; a time to first token leaves out what a request waited.

    Raises:
        PolicyError: there is no such policy.
    """
    budget_bytes = None if setup.policy == UNLIMITED else setup.budget.total_bytes
    start = perf_counter()
    arrivals = list(groups(requests, setup.concurrency))
    # Several at a time are not served in the order of the trace.
    served = [request for together in arrivals for request in together]
    cache = build_cache(setup.policy, setup.cost, setup.budget, served)
    records = []
    for together in arrivals:
        for request, hit in zip(together, cache.serve_together(together), strict=True):
            prompt = len(request.prompt)
            records.append(
                RequestRecord(
                    trace=setup.trace,
                    policy=setup.label,
                    model=setup.model,
                    budget_bytes=budget_bytes,
                    session_id=request.session_id,
                    turn=request.turn,
                    arrival=request.arrival,
                    prompt_tokens=prompt,
                    hit_tokens=hit,
                    state_bytes=cache.state_bytes_held,
                    kv_bytes=cache.kv_bytes_held,
                    ttft=setup.latency.ttft(prompt - hit) if setup.latency is not None else None,
                )
            )
            on_request()
    seconds = perf_counter() - start
    run = msgspec.structs.replace(
        run_record(records, seconds=seconds, cost=setup.cost),
        budget_bytes=budget_bytes,
        peak_bytes=cache.peak_bytes,
        evictions=cache.evictions,
    )
    return Run(run, records)
