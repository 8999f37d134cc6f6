"""The simulated caches: their bounds on any trace, and what they do on small ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_marconi.cost import ModelCost, preset
from sglang_marconi.cost.latency import LatencyProfile
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.registry import make_valuation
from sglang_marconi.simulate import future, radix_cache
from sglang_marconi.simulate.cache import Budget, SimulatedCache
from sglang_marconi.simulate.policies import NAMES, PolicyError, build_cache
from sglang_marconi.simulate.run import Setup, simulate
from sglang_marconi.simulate.two_pools import TwoPoolCache
from sglang_marconi.traces.formats import read_trace
from sglang_marconi.traces.generators import generate
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens
from support.naive_tree import NaiveTree
from support.token_runs import traces

# A state weighs as much as 20 tokens of KV.
COST = ModelCost(
    flops_per_token=100.0, flops_per_token_squared=1.0, state_bytes=200, kv_bytes_per_token=10
)
POLICIES = [*NAMES, "marconi:0.7"]
AIRLINE = Path(__file__).parents[3] / "shared" / "traces" / "tau_airline.jsonl"
TWO_POOLS = ["lru", "auto", "marconi:0.7"]


def request(prompt: list[int], reply: list[int]) -> TraceRequest:
    return TraceRequest("0", 0, 0.0, Tokens.plain(prompt), Tokens.plain(reply))


def longest_common_prefix(prompt: Tokens, before: list[Tokens]) -> int:
    return max((prompt.common_prefix(earlier) for earlier in before), default=0)


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None, max_examples=40)
@given(requests=traces, budget=st.integers(0, 12_000))
def test_no_cache_hits_what_it_has_not_seen_or_holds_more_than_it_may(
    policy: str, requests: list[TraceRequest], budget: int
) -> None:
    cache = build_cache(policy, COST, Budget(budget), requests)
    before: list[Tokens] = []
    for served in requests:
        hit = cache.serve(served)
        assert 0 <= hit <= min(longest_common_prefix(served.prompt, before), len(served.prompt) - 1)
        assert cache.state_bytes_held >= 0 <= cache.kv_bytes_held
        if policy != "unlimited":
            assert cache.state_bytes_held + cache.kv_bytes_held <= cache.peak_bytes <= budget
        before.append(served.prompt + served.reply)


@pytest.mark.parametrize("policy", TWO_POOLS)
@settings(deadline=None, max_examples=40)
@given(requests=traces, budget=st.integers(0, 12_000), share=st.floats(0.1, 0.9))
def test_two_pools_do_not_lend(
    policy: str, requests: list[TraceRequest], budget: int, share: float
) -> None:
    cache = build_cache(policy, COST, Budget(budget, share), requests)
    for served in requests:
        cache.serve(served)
        assert cache.state_bytes_held <= budget * share
        assert cache.kv_bytes_held <= budget - int(budget * share)


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "vllm+"])
@settings(deadline=None, max_examples=25)
@given(requests=traces, budget=st.integers(500, 12_000))
def test_runs_give_what_token_by_token_comparison_gives(
    policy: str, requests: list[TraceRequest], budget: int
) -> None:
    fast = build_cache(policy, COST, Budget(budget), requests)
    found = [fast.serve(served) for served in requests]
    with pytest.MonkeyPatch.context() as patch:
        for module in (radix_cache, future):
            patch.setattr(module, "RadixTree", NaiveTree)
        naive = build_cache(policy, COST, Budget(budget), requests)
        assert found == [naive.serve(served) for served in requests]
    assert (fast.peak_bytes, fast.evictions) == (naive.peak_bytes, naive.evictions)


@settings(deadline=None, max_examples=40)
@given(requests=traces, budget=st.integers(0, 12_000))
def test_blocks_give_what_sets_of_prefixes_give(requests: list[TraceRequest], budget: int) -> None:
    cache = build_cache("vllm+", COST, Budget(budget), requests)
    fitting = budget // (COST.state_bytes + COST.kv_bytes(32))
    kept: list[tuple[object, ...]] = []  # prefixes of whole blocks, the last used at the end
    for served in requests:
        whole = (served.prompt + served.reply).expand()[
            : len(served.prompt) + max(len(served.reply) - 1, 0)
        ]
        blocks = [tuple(whole[:end]) for end in range(32, len(whole) + 1, 32)]
        matched = 0
        while (
            matched < len(blocks)
            and blocks[matched] in kept
            and len(blocks[matched]) < len(served.prompt)
        ):
            matched += 1
        assert cache.serve(served) == 32 * matched
        used = blocks[: max(matched, fitting)]
        kept = [block for block in kept if block not in used] + used[::-1]
        kept = kept[max(0, len(kept) - fitting) :]


def hits(cache: SimulatedCache, requests: list[TraceRequest]) -> list[int]:
    return [cache.serve(served) for served in requests]


def test_a_conversation_resumes_before_its_last_sampled_token() -> None:
    turns = [request([1, 2, 3], [4, 5]), request([1, 2, 3, 4, 5, 6], [7])]
    assert hits(build_cache("lru", COST, Budget(10_000), turns), turns) == [0, 4]


def test_a_shared_prefix_is_reused_from_the_third_prompt_on() -> None:
    shared = [1] * 50
    asked = [request([*shared, 10 + n], [20 + n, 3]) for n in range(3)]
    assert hits(build_cache("auto", COST, Budget(10_000), asked), asked) == [0, 0, 50]


@pytest.mark.parametrize(("kv_tokens", "resumed"), [(151, 0), (152, 30)])
def test_a_prompt_takes_the_kv_of_its_whole_pass_at_once(kv_tokens: int, resumed: int) -> None:
    """Its first 50 tokens, which it computes again, and the 21 behind its branch point."""
    shared, other = [1] * 50, list(range(100, 130))
    asked = [
        request(other, [2]),
        request([*shared, 3], [4]),
        request([*shared, *range(10, 31)], [5]),
        request([*other, 6], [7]),
    ]
    states, kv = 4 * COST.state_bytes, COST.kv_bytes(kv_tokens)
    budget = Budget(states + kv, states / (states + kv))
    cache = build_cache("lru", replace(COST, pass_flops=0.0), budget, asked)
    assert hits(cache, asked) == [0, 0, 0, resumed]


def test_a_store_counts_a_state_once() -> None:
    """Of the second prompt, one at its branch point and one at its end, beside the first's end."""
    asked = [request([*[1] * 50, 10 + n], [20 + n, 3]) for n in range(2)]
    policy = EvictionPolicy(COST, make_valuation("lru"))
    states = 3 * COST.state_bytes
    cache = TwoPoolCache(COST, policy, state_bytes=states, kv_bytes=10_000, store=True)
    assert hits(cache, asked) == [0, 0]
    assert (cache.state_bytes_held, cache.evictions) == (states, 0)


def test_what_does_not_fit_is_not_kept_and_drives_nothing_out() -> None:
    small, large = request([1, 2, 3], [4, 5]), request(list(range(10, 200)), [6])
    asked = [small, large, request([1, 2, 3, 4, 5, 6], [7])]
    cache = build_cache("lru", COST, Budget(400), asked)
    assert hits(cache, asked) == [0, 0, 4]


def test_an_unknown_policy_is_named() -> None:
    for policy in ("fifo", "lru:1", "marconi:x", "marconi:-1"):
        with pytest.raises(PolicyError, match=policy):
            build_cache(policy, COST, Budget(1000), [])
    with pytest.raises(PolicyError, match="one budget"):
        build_cache("sglang+", COST, Budget(1000, 0.5), [])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_model_without_states_has_an_ordinary_prefix_cache(policy: str) -> None:
    attention = ModelCost(
        flops_per_token=100.0, flops_per_token_squared=1.0, state_bytes=0, kv_bytes_per_token=10
    )
    turns = [request([1, 2, 3] * 30, [4, 5]), request([*[1, 2, 3] * 30, 4, 5, 6], [7])] * 3
    cache = build_cache(policy, attention, Budget(1000), turns)
    assert hits(cache, turns)[1] >= 64
    with pytest.raises(PolicyError, match="recurrent"):
        build_cache("auto", attention, Budget(1000, 0.5), turns)


def test_records_add_up() -> None:
    asked = generate("sharegpt", sessions=10, seed=1)
    profile = LatencyProfile([(0, 0.0), (1000, 1.0), (2000, 3.0)])
    cost = preset("paper-7b")
    run, requests = simulate(Setup("t", "auto", "paper-7b", cost, Budget(10**9), profile), asked)
    assert run.requests == len(asked) == len(requests)
    assert run.prompt_tokens == sum(len(served.prompt) for served in asked)
    assert run.hit_tokens == sum(record.hit_tokens for record in requests) > 0
    assert run.token_hit_rate == run.hit_tokens / run.prompt_tokens
    assert run.flops_saved == pytest.approx(
        sum(cost.prefill_flops(0, record.hit_tokens) for record in requests)
    )
    assert run.peak_bytes == max((r.state_bytes or 0) + (r.kv_bytes or 0) for r in requests)
    assert (
        run.ttft_p50
        == sorted(profile.ttft(r.prompt_tokens - r.hit_tokens) for r in requests)[
            len(requests) // 2
        ]
        or len(requests) % 2 == 0
    )


def test_a_latency_profile_is_lines() -> None:
    profile = LatencyProfile([(0, 1.0), (100, 2.0), (200, 4.0)])
    assert [profile.ttft(n) for n in (0, 50, 100, 150, 300)] == [1.0, 1.5, 2.0, 3.0, 6.0]


@pytest.mark.skipif(not AIRLINE.exists(), reason="the real traces are not beside the project")
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("lru", (60.5, 62.1, 73.8, 91.0)),
        ("sglang+", (60.4, 62.2, 72.4, 87.4)),
        ("unlimited", (95.5,)),
    ],
)
def test_the_airline_trace_gives_what_an_independent_simulator_gave(
    policy: str, expected: tuple[float, ...]
) -> None:
    asked = list(read_trace(AIRLINE, limit=600))
    # It keeps a state at every branch point, however little is gained.
    cost = replace(preset("paper-7b"), pass_flops=0.0)
    for gigabytes, percent in zip((1, 2, 5, 10), expected, strict=False):
        setup = Setup("t", policy, "paper-7b", cost, Budget(gigabytes * 10**9))
        assert 100 * simulate(setup, asked).run.token_hit_rate == pytest.approx(percent, abs=1)
