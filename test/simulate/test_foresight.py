"""A valuation that knows the trace, driven by the eviction code that drives the others."""

from __future__ import annotations

import pytest
from sglang_marconi.cost import token_length_cost
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.simulate.foresight import Foresight
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens

# A hit saves its tokens.
TOKENS = token_length_cost(state_bytes=10, kv_bytes_per_token=1)


def asked(*prompts: list[int]) -> list[TraceRequest]:
    # The last token of a prompt is computed whatever is cached.
    return [
        TraceRequest("0", 0, 0.0, Tokens.plain([*prompt, 99]), Tokens.plain([]))
        for prompt in prompts
    ]


class Served:
    """A policy with a node and a state for each prompt served so far."""

    def __init__(self, *prompts: list[int]) -> None:
        self.foresight = Foresight(asked(*prompts))
        self.policy = EvictionPolicy(TOKENS, self.foresight)

    def serve(self, prompt: list[int], *above: PrefixNode) -> PrefixNode:
        self.policy.tick()
        parent = above[-1] if above else self.policy.root
        node = self.policy.add(parent, self.foresight.now, len(prompt))
        self.policy.store_state(node)
        self.foresight.served(Tokens.plain(prompt), [*above, node])
        return node

    def score(self, node: PrefixNode) -> float:
        standing = self.policy.standing_of_state(node)
        assert standing is not None
        return standing.score


def test_what_saves_least_for_the_time_it_waits_goes_first() -> None:
    long, short, never = [1] * 40, [2] * 10, [3] * 100
    cache = Served(long, short, never, long, [4], [5], short)
    nodes = [cache.serve(prompt) for prompt in (long, short, never)]
    order = []
    while (victim := cache.policy.least_useful_state()) is not None:
        order.append((victim, cache.score(victim)))
        cache.policy.drop_state(victim)
    # Request 3 is served now: 40 tokens for no wait, 10 tokens in 10 bytes for one of three.
    assert order == [(nodes[2], 0.0), (nodes[1], pytest.approx(1 / 3)), (nodes[0], float("inf"))]


def test_who_would_resume_at_what_is_gone_resumes_above() -> None:
    start, whole = [1] * 20, [1] * 20 + [2] * 30
    cache = Served(start, whole, whole)
    upper = cache.serve(start)
    lower = cache.serve(whole, upper)
    cache.policy.least_useful_state()
    assert cache.score(upper) == 0.0
    cache.policy.drop_state(lower)
    assert cache.policy.least_useful_state() is upper
    assert cache.score(upper) == float("inf")


def test_another_tree_begins_with_nothing_foreseen() -> None:
    cache = Served([1] * 20, [1] * 20)
    node = cache.serve([1] * 20)
    cache.policy.clear()
    assert cache.foresight.next_use(node) == float("inf")
    assert cache.policy.least_useful_state() is None
