"""What tuning costs: microseconds a request in the scheduler, seconds a window in the sidecar.

python scripts/bench_tuning.py --requests 1000
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from array import array
from itertools import pairwise, product

import numpy as np
from rich.console import Console
from rich.table import Table
from sglang_marconi.cost import preset
from sglang_marconi.traces.generators import generate
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.tuning import TuningClient
from sglang_marconi.tuning.messages import ALPHAS, BATCH, Finished, Setup
from sglang_marconi.tuning.parallel import ParallelReplays
from sglang_marconi.tuning.prefix_hashes import PrefixHasher
from sglang_marconi.tuning.shadow import recorded, shadow_cache
from sglang_marconi.tuning.tuner import Job

_LENGTHS = (1_000, 5_000, 32_000)
_MODEL = "nemotron-nano-9b-v2"
_STATES, _KV_TOKENS = 200, 1_000_000
# Requests a second: as many as a busy server finishes.
_RATE = 200


def _setup() -> Setup:
    cost = preset(_MODEL)
    return Setup(cost, _STATES * cost.state_bytes, cost.kv_bytes(_KV_TOKENS), alpha=1.0)


def _added(length: int, calls: int, burst: int) -> tuple[list[float], int]:
    """Seconds of `record` and `poll` for requests of this many tokens, and how many were sent.

    Requests finish ``burst`` at a time. Between bursts the CPU forgets this code and its data.
    """
    random = np.random.default_rng(0)
    texts = [array("q", random.integers(150_000, size=length).tolist()) for _ in range(20)]
    client = TuningClient(_setup())
    try:
        while not client.counts.sent:
            client.record(length, texts[0])
            client.poll()
            time.sleep(0.01)
        seconds = []
        for call in range(calls):
            start = time.perf_counter()
            client.record(length, texts[call % len(texts)])
            client.poll()
            seconds.append(time.perf_counter() - start)
            if call % burst == 0:
                _work(burst / _RATE)
        return seconds, client.counts.sent
    finally:
        client.close()


def _work(seconds: float) -> None:
    """A scheduler does not sleep between requests."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def _hashed(requests: list[TraceRequest]) -> list[TraceRequest]:
    hasher = PrefixHasher()
    hashed = []
    for number, request in enumerate(requests):
        ids = (request.prompt + request.reply).ids
        hashed.append(recorded(Finished(number, len(request.prompt), len(ids), hasher.hash(ids))))
    return hashed


def _scheduler(console: Console, calls: int) -> None:
    table = Table(title=f"Added to a request in the scheduler, µs ({calls} requests)")
    for column in ("tokens", "at a time", "median", "p99", "sent"):
        table.add_column(column, justify="right")
    for length, burst in product(_LENGTHS, (1, BATCH)):
        seconds, sent = _added(length, calls, burst)
        p99 = statistics.quantiles(seconds, n=100)[-1]
        median = statistics.median(seconds)
        table.add_row(f"{length}", f"{burst}", f"{1e6 * median:.1f}", f"{1e6 * p99:.1f}", f"{sent}")
    console.print(table)


def _window(console: Console, size: int) -> None:
    requests = _hashed(generate("swebench", sessions=2 * size // 10)[: 2 * size])
    start = shadow_cache(_setup())
    began = time.perf_counter()
    for request in requests[:size]:
        start.serve(request)
    once = time.perf_counter() - began
    job = Job(start, requests[size:], ALPHAS)
    began = time.perf_counter()
    replays = ParallelReplays(job)
    while (results := replays.collect()) is None:
        pass
    seconds = time.perf_counter() - began
    tokens = job.prompt_tokens()
    console.print(
        f"{len(job.requests)} requests of {tokens / len(job.requests):.0f} tokens on average: "
        f"{once:.2f} s for the window before it, {seconds:.2f} s under {len(ALPHAS)} alphas on "
        f"{len(os.sched_getaffinity(0))} CPUs; {start.evictions} evictions before"
    )
    rates = {alpha: replay.hit_tokens / tokens for alpha, replay in results.items()}
    console.print("  ".join(f"{alpha:g}: {100 * rates[alpha]:.1f} %" for alpha in sorted(rates)))
    steps = [abs(b - a) for a, b in pairwise(rates[alpha] for alpha in sorted(rates))]
    console.print(f"largest step between neighbours: {100 * max(steps):.2f} points")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000, help="requests in the window")
    parser.add_argument("--calls", type=int, default=1_000, help="requests timed for each length")
    arguments = parser.parse_args()
    console = Console()
    _scheduler(console, arguments.calls)
    _window(console, arguments.requests)


if __name__ == "__main__":
    main()
