"""Requests that arrive together, in the simulator: which do, what they see, and what they keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_marconi.cost import ModelCost, preset
from sglang_marconi.policy.check import check_policy
from sglang_marconi.records import RequestRecord
from sglang_marconi.simulate import radix_cache
from sglang_marconi.simulate.arrivals import groups
from sglang_marconi.simulate.cache import Budget
from sglang_marconi.simulate.policies import NAMES, build_cache
from sglang_marconi.simulate.radix_cache import RadixCache
from sglang_marconi.simulate.run import Setup, simulate
from sglang_marconi.traces.generators import generate
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens
from support.naive_tree import NaiveTree
from support.token_runs import traces

# A state weighs as much as 20 tokens of KV.
COST = ModelCost(
    flops_per_token=100.0, flops_per_token_squared=1.0, state_bytes=200, kv_bytes_per_token=10
)
POLICIES = ["lru", "auto", "marconi:0.7"]


def request(
    prompt: list[int], *, session: str = "0", turn: int = 0, arrival: float = 0.0
) -> TraceRequest:
    return TraceRequest(session, turn, arrival, Tokens.plain(prompt), Tokens.plain([9, 9]))


# ---- which arrive together ----


def test_a_turn_comes_after_the_one_before_it() -> None:
    order = ["a0", "a1", "b0", "a2", "c0", "b1"]
    trace = [request([1], session=name[0], turn=int(name[1])) for name in order]

    def grouped(concurrency: int) -> list[list[str]]:
        found = groups(trace, concurrency)
        return [[f"{each.session_id}{each.turn}" for each in group] for group in found]

    assert grouped(1) == [[name] for name in order]
    assert grouped(2) == [["a0", "b0"], ["a1", "c0"], ["a2", "b1"]]
    assert grouped(9) == [["a0", "b0", "c0"], ["a1", "b1"], ["a2"]]


def test_those_of_one_instant_come_together_but_no_session_twice() -> None:
    trace = [
        request([1], session=session, arrival=arrival)
        for session, arrival in (("a", 0.0), ("b", 0.0), ("a", 0.0), ("c", 1.0), ("d", 1.0))
    ]
    found = [[each.session_id for each in group] for group in groups(trace, None)]
    assert found == [["a", "b"], ["a"], ["c", "d"]]


# ---- what they reuse ----


def unique() -> Callable[[int], list[int]]:
    fresh = iter(range(100, 10**6))
    return lambda count: [next(fresh) for _ in range(count)]


@pytest.mark.parametrize("share", [None, 0.5])
@pytest.mark.parametrize(("policy", "waits"), [("auto", True), ("marconi:1", True), ("lru", False)])
def test_what_is_known_before_it_is_computed_is_reused_by_those_that_wait(
    policy: str, waits: bool, share: float | None
) -> None:
    new = unique()
    prompt, fork, left, right = new(700), new(500), new(300), new(300)

    def reused(prompts: list[list[int]]) -> list[int]:
        trace = [request(tokens, session=str(at)) for at, tokens in enumerate(prompts)]
        cost = preset("nemotron-nano-9b-v2")
        setup = Setup("t", policy, "m", cost, Budget(10**11, share), concurrency=len(prompts))
        return [record.hit_tokens for record in simulate(setup, trace).requests]

    assert reused([prompt] * 8) == [0, *[699 * waits] * 7]
    assert reused([[*fork, *new(40)] for _ in range(8)]) == [0, *[500 * waits] * 7]
    two = [[*start, *new(40)] for start in [left, right] * 5]
    assert reused(two) == [0, 0, *[300 * waits] * 8]


def test_one_that_shares_less_waits_no_longer_than_for_its_place() -> None:
    """The third resumes where it leaves the first, not with the second, in the next round."""
    new = unique()
    start, more = new(200), new(200)
    prompts = [start + more + new(9), start + more + new(9), start + new(9)]
    trace = [request(prompt) for prompt in prompts]
    cache = build_cache("auto", COST, Budget(10**6), trace)
    assert cache.serve_together(trace) == [0, 400, 200]


def test_without_waiting_a_branch_point_is_seen_by_the_next_pass() -> None:
    new = unique()
    start = new(100)
    trace = [request([*start, *new(9)]) for _ in range(5)]
    cache = build_cache("lru", COST, Budget(10**6), trace)
    assert isinstance(cache, RadixCache)
    assert cache.serve_together(trace[:2]) == [0, 0]
    assert cache.serve_together(trace[2:4]) == [0, 0]
    # Both were to leave a state there, and neither has used it.
    (start_node,) = cache.policy.root.children.values()
    assert start_node.has_state and start_node.hits == 0
    assert cache.serve_together(trace[4:]) == [100]
    assert start_node.hits == 1


def test_what_a_request_of_the_pass_resumes_from_stays_until_all_have_ended() -> None:
    new = unique()
    held, large = new(50), new(80)
    before, again = request(held), request([*held, 9, 5])
    # What the first leaves takes all the room but that of the second's state and its KV.
    room = 2 * COST.state_bytes + COST.kv_bytes(51 + 81)
    for policy in POLICIES:
        trace = [before, request(large, session="1"), again]
        cache = build_cache(policy, COST, Budget(room - 10), trace)
        assert cache.serve(before) == 0
        assert cache.serve_together(trace[1:]) == [0, 51]
        assert cache.serve(request([*held, 9, 6])) == 51


def test_what_two_of_the_pass_resume_from_stays_between_them() -> None:
    new = unique()
    start, large = new(100), new(400)
    # But for ten bytes there is room for the start and what the large one leaves.
    room = 2 * COST.state_bytes + COST.kv_bytes(100 + 401) - 10
    trace = [request([*start, *new(9)]) for _ in range(5)]
    cache = build_cache("lru", COST, Budget(room), trace)
    assert [cache.serve(each) for each in trace[:2]] == [0, 0]
    assert cache.serve_together([trace[2], request(large), trace[3]]) == [100, 0, 100]
    assert cache.serve(trace[4]) == 100


@pytest.mark.parametrize(("spare", "reused"), [(0, 100), (-10, 0)])
def test_a_state_for_others_is_kept_with_its_kv_where_the_end_is_refused(
    spare: int, reused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = unique()
    start = new(100)
    trace = [request([*start, *new(300)]), request([*start, *new(9)])]
    room = COST.state_bytes + COST.kv_bytes(100) + spare
    cache = build_cache("auto", COST, Budget(room), trace)
    assert isinstance(cache, RadixCache)
    priced_from: list[int] = []

    def refuse(above: int, *_: int) -> bool:
        priced_from.append(above)
        return False

    monkeypatch.setattr(cache.policy, "admits_end", refuse)
    assert cache.serve_together(trace) == [0, reused]
    # A hit on the end saves what comes after the state for the others.
    assert priced_from[0] == 100
    assert cache.state_bytes_held + cache.kv_bytes_held <= room


# ---- on any trace ----


def split(requests: list[TraceRequest], sizes: list[int]) -> list[list[TraceRequest]]:
    parts = []
    while requests:
        size = sizes[len(parts) % len(sizes)]
        parts.append(requests[:size])
        requests = requests[size:]
    return parts


@pytest.mark.parametrize("policy", [*POLICIES, "sglang+", "unlimited"])
@pytest.mark.parametrize("share", [None, 0.4])
@settings(deadline=None, max_examples=60)
@given(
    requests=traces,
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    budget=st.integers(0, 12_000),
)
def test_the_books_are_kept_and_nothing_is_hit_that_was_not_there(
    policy: str,
    share: float | None,
    requests: list[TraceRequest],
    sizes: list[int],
    budget: int,
) -> None:
    if policy in ("sglang+", "unlimited") and share is not None:
        return
    cache = build_cache(policy, COST, Budget(budget, share), requests)
    assert isinstance(cache, RadixCache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radix_cache, "RadixTree", NaiveTree)
        naive = build_cache(policy, COST, Budget(budget, share), requests)
    before: list[Tokens] = []
    for group in split(requests, sizes):
        hits = cache.serve_together(group)
        assert hits == naive.serve_together(group)
        for at, (each, hit) in enumerate(zip(group, hits, strict=True)):
            # Others of the group are seen only by those that wait for them.
            others = [other.prompt + other.reply for other in group[:at]] if cache.waits else []
            shared = [each.prompt.common_prefix(tokens) for tokens in before + others]
            assert 0 <= hit <= min(max(shared, default=0), len(each.prompt) - 1)
        check_policy(cache.policy)
        nodes = list(cache.policy.nodes())
        assert not any(node.state_in_use for node in nodes)
        assert all(node.leaf_offered for node in nodes if not node.children)
        assert cache.state_bytes_held == COST.state_bytes * sum(node.has_state for node in nodes)
        held = cache.state_bytes_held + cache.kv_bytes_held
        assert policy == "unlimited" or held <= budget
        before += [each.prompt + each.reply for each in group]


@pytest.mark.parametrize("policy", [name for name in NAMES if name not in ("vllm+", "marconi")])
def test_the_order_in_which_requests_are_served_is_what_a_cache_is_told(policy: str) -> None:
    """As many are reused as a prompt can share with those before it, and each is served once."""
    trace = generate("sharegpt", sessions=12, seed=3)
    setup = Setup("t", policy, "m", preset("paper-7b"), Budget(10**9), concurrency=4)
    records = simulate(setup, trace).requests
    by_turn = {(each.session_id, each.turn): each for each in trace}
    assert sorted(map(of, records)) == sorted(by_turn)
    before: list[Tokens] = []
    for record in records:
        served = by_turn[of(record)]
        shared = max((served.prompt.common_prefix(tokens) for tokens in before), default=0)
        assert record.hit_tokens <= min(shared, len(served.prompt) - 1)
        before.append(served.prompt + served.reply)


def of(record: RequestRecord) -> tuple[str, int]:
    return record.session_id, record.turn
