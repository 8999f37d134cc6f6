"""One trace through one policy with one budget, as records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np

from sglang_marconi.cost import ModelCost
from sglang_marconi.replay.latency import LatencyProfile
from sglang_marconi.replay.requests import TraceRequest
from sglang_marconi.replay.results import RequestRecord, RunRecord
from sglang_marconi.replay.simulator.cache import Budget
from sglang_marconi.replay.simulator.policies import UNLIMITED, build_cache


class Setup(NamedTuple):
    """What a run simulates; ``model`` is how records call what ``cost`` is the cost of.

    Without a ``latency`` profile no times to first token are given.
    """

    trace: str
    policy: str
    model: str
    cost: ModelCost
    budget: Budget
    latency: LatencyProfile | None = None


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

    Raises:
        PolicyError: there is no such policy.
    """
    budget_bytes = None if setup.policy == UNLIMITED else setup.budget.total_bytes
    start = perf_counter()
    cache = build_cache(setup.policy, setup.cost, setup.budget, requests)
    records = []
    flops_saved = 0.0
    for request in requests:
        hit = cache.serve(request)
        flops_saved += setup.cost.prefill_flops(0, hit)
        prompt = len(request.prompt)
        records.append(
            RequestRecord(
                trace=setup.trace,
                policy=setup.policy,
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
    prompt_tokens = sum(record.prompt_tokens for record in records)
    hit_tokens = sum(record.hit_tokens for record in records)
    ttfts = [record.ttft for record in records if record.ttft is not None]
    p50, p95, p99 = np.percentile(ttfts, [50, 95, 99]).tolist() if ttfts else (None,) * 3
    run = RunRecord(
        trace=setup.trace,
        policy=setup.policy,
        model=setup.model,
        budget_bytes=budget_bytes,
        requests=len(records),
        prompt_tokens=prompt_tokens,
        hit_tokens=hit_tokens,
        token_hit_rate=hit_tokens / prompt_tokens,
        request_hit_rate=sum(record.hit_tokens > 0 for record in records) / len(records),
        flops_saved=flops_saved,
        peak_bytes=cache.peak_bytes,
        evictions=cache.evictions,
        seconds=seconds,
        ttft_p50=p50,
        ttft_p95=p95,
        ttft_p99=p99,
    )
    return Run(run, records)
