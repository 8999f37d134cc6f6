"""How much a branch has to gain to get a state: the same for cache and simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sglang_marconi.cost import ModelCost, preset, token_length_cost
from sglang_marconi.policy.eviction import EvictionPolicy, SharedBudgetEviction
from sglang_marconi.policy.utility import PaperUtility
from sglang_marconi.simulate.shared_budget import SharedBudgetCache
from sglang_marconi.simulate.two_pools import TwoPoolCache
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens
from support.tree_serving import PAGES_OF_FOUR, SINGLE_TOKENS, Serving

COSTS = {
    "flops": preset("paper-7b"),
    "tokens": token_length_cost(state_bytes=100, kv_bytes_per_token=1),
}
ROOMY = {"kv_size": 1024, "max_context_len": 256}


def prompts(shared: int) -> list[list[int]]:
    """Three that part after ``shared`` tokens."""
    return [[*range(1, shared + 1), 1001 + last, 2, 3] for last in range(3)]


def live(asked: Sequence[Sequence[int]], serving: Serving) -> tuple[list[int], list[int | None]]:
    """What each of them reused, and where it was to leave a state."""
    hits, branches = [], []
    for prompt in asked:
        flight = serving.begin(prompt)
        assert flight is not None
        hits.append(flight.req.kv.cache_protected_len)
        branches.append(flight.branch)
        if flight.branch is not None:
            serving.chunk(flight, flight.branch)
        serving.chunk(flight, len(prompt))
        serving.decode(flight, [4])
        serving.finish(flight)
    return hits, branches


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(("shared", "at"), [(1, None), (29, None), (30, 30), (40, 40)])
def test_a_branch_of_fewer_tokens_gets_no_state(cost: str, shared: int, at: int | None) -> None:
    priced = COSTS[cost]
    serving = Serving(replace(SINGLE_TOKENS, **ROOMY), EvictionPolicy(priced, PaperUtility(0.0)))
    asked = prompts(shared)
    hits, branches = live(asked, serving)
    assert branches == [None, at, None]
    assert hits == [0, 0, at or 0]
    for simulated in simulators(priced):
        served = [simulated.serve(request(prompt)) for prompt in asked]
        assert served == hits


@pytest.mark.parametrize(("shared", "at"), [(31, None), (32, 32), (35, 32)])
def test_what_a_page_cuts_off_does_not_count(shared: int, at: int | None) -> None:
    cfg = replace(PAGES_OF_FOUR, **ROOMY)
    serving = Serving(cfg, EvictionPolicy(COSTS["tokens"], PaperUtility(0.0)))
    assert live(prompts(shared)[:2], serving)[1] == [None, at]


def simulators(cost: ModelCost) -> list[Any]:
    much = 10**12
    utility = PaperUtility(0.0)
    return [
        SharedBudgetCache(cost, SharedBudgetEviction(cost, utility), much),
        TwoPoolCache(cost, EvictionPolicy(cost, utility), state_bytes=much, kv_bytes=much),
    ]


def request(prompt: list[int]) -> TraceRequest:
    return TraceRequest("0", 0, 0.0, Tokens.plain(prompt), Tokens.plain([4, 5]))
