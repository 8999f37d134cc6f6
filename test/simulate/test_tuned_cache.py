"""`marconi` in a simulation is tuned as a server's sidecar tunes it."""

from __future__ import annotations

from sglang_marconi.cost import token_length_cost
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.utility import PaperUtility
from sglang_marconi.simulate.cache import Budget
from sglang_marconi.simulate.policies import build_cache
from sglang_marconi.simulate.tuner import ALPHAS, SHORTEST, WINDOW
from sglang_marconi.simulate.two_pools import TwoPoolCache
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens

COST = token_length_cost(state_bytes=100, kv_bytes_per_token=1)
STATES, KV = 800, 999_200


def requests() -> list[TraceRequest]:
    """Every twelfth prompt goes on with one of two long documents; the others come once."""
    documents = [list(range(400)), list(range(1000, 1400))]
    made: list[TraceRequest] = []
    for number in range(300):
        new = list(range(10_000 * (number + 1), 10_000 * (number + 1) + 24))
        before: list[int] = []
        if number % 12 == 0:
            before = documents[number // 12 % 2]
            documents[number // 12 % 2] = before + new
        prompt, reply = Tokens.plain([*before, *new[:20]]), Tokens.plain(new[20:])
        made.append(TraceRequest(str(number), 0, float(number), prompt, reply))
    return made


def by_hand(alphas: dict[int, float]) -> tuple[list[int], int]:
    """Hits with these alphas from these requests on; the first one after an eviction."""
    utility = PaperUtility(0.0)
    cache = TwoPoolCache(COST, EvictionPolicy(COST, utility), state_bytes=STATES, kv_bytes=KV)
    hits, first = [], 0
    for number, request in enumerate(requests()):
        utility.alpha = alphas.get(number, utility.alpha)
        hits.append(cache.serve(request))
        if not first and cache.evictions:
            first = number + 1
    return hits, first


def test_alpha_is_that_of_the_first_window_from_its_end_on() -> None:
    untuned, start = by_hand({})
    end = start + max(WINDOW * start, SHORTEST)
    in_window = {alpha: sum(by_hand({start: alpha})[0][start:end]) for alpha in ALPHAS}
    best = max(ALPHAS, key=lambda alpha: (in_window[alpha], alpha == 0.0, -alpha))
    assert best > 0, "alpha does not matter here"

    budget = Budget(STATES + KV, STATES / (STATES + KV))
    cache = build_cache("marconi", COST, budget, ())
    hits = [cache.serve(request) for request in requests()]
    assert hits == by_hand({end: best})[0]
    assert sum(hits) > sum(untuned)
