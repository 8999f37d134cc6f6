"""The oracle: what it plans can be done, and does better than what does not know the future."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_marconi.cost import preset, token_length_cost
from sglang_marconi.simulate.cache import Budget
from sglang_marconi.simulate.oracle import OracleCache, Plan
from sglang_marconi.simulate.policies import ORACLE, UNLIMITED, build_cache
from sglang_marconi.traces.formats import read_trace
from sglang_marconi.traces.generators import generate
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens
from support.token_runs import traces

# A state weighs as much as 20 tokens of KV.
COST = token_length_cost(state_bytes=200, kv_bytes_per_token=10)
AIRLINE = Path(__file__).parents[3] / "shared" / "traces" / "tau_airline.jsonl"


def asked(*prompts: list[int]) -> list[TraceRequest]:
    """The last token of a prompt is computed whatever is cached."""
    return [
        TraceRequest("0", 0, 0.0, Tokens.plain([*prompt, 1000 + number]), Tokens.plain([]))
        for number, prompt in enumerate(prompts)
    ]


def hits(requests: list[TraceRequest], total_bytes: int) -> list[int]:
    cache = OracleCache(COST, total_bytes, requests)
    return [cache.serve(request) for request in requests]


def held_bytes(states: int, kv_tokens: int) -> int:
    return states * COST.state_bytes + COST.kv_bytes(kv_tokens)


def test_what_is_shared_is_reused_from_the_second_prompt_on() -> None:
    shared = [1] * 50
    requests = asked([*shared, 2, 2], [*shared, 3], shared)
    assert hits(requests, held_bytes(1, 50)) == [0, 50, 50]
    assert hits(requests, held_bytes(1, 50) - 1) == [0, 0, 0]


def test_the_same_prompt_is_reused_but_for_its_last_token() -> None:
    prompt = Tokens.plain([1] * 600)
    requests = [TraceRequest("0", turn, 0.0, prompt, Tokens.plain([2, 3])) for turn in range(3)]
    assert hits(requests, held_bytes(1, 599)) == [0, 599, 599]


def test_a_reply_is_reused_but_for_its_last_token() -> None:
    first = TraceRequest("0", 0, 0.0, Tokens.plain([1, 2, 3]), Tokens.plain([4, 5, 6]))
    second = TraceRequest("0", 1, 0.0, Tokens.plain([1, 2, 3, 4, 5, 6, 7]), Tokens.plain([]))
    assert hits([first, second], held_bytes(1, 5)) == [0, 5]


def test_what_saves_most_for_its_bytes_and_its_time_is_held() -> None:
    long, short, other = [1] * 90, [2] * 60, [3] * 10
    # Over one request 90 tokens take 1,100 bytes, 60 take 800; over three or two these are more.
    requests = asked(short, long, long, other, short)
    assert hits(requests, held_bytes(1, 90)) == [0, 0, 90, 0, 0]
    assert hits(requests, held_bytes(2, 150)) == [0, 0, 90, 0, 60]
    # The shorter one takes less, and the longer one cannot have what is left.
    requests = asked(long, short, other, short, other, other, other, long)
    assert hits(requests, held_bytes(1, 90)) == [0, 0, 0, 60, 10, 10, 10, 0]


def test_a_request_leaves_nothing_above_where_it_resumes() -> None:
    """The second computes nothing of the 50 tokens that the third shares with it."""
    requests = asked([1] * 100, [*[1] * 100, 2], [*[1] * 50, 3])
    assert hits(requests, held_bytes(2, 100)) == [0, 100, 50]
    assert hits(requests, held_bytes(2, 100) - 1) == [0, 100, 0]


def test_kv_that_prefixes_share_is_held_once() -> None:
    requests = asked([1] * 100 + [2] * 20, [1] * 100 + [3] * 20, [1] * 100 + [2] * 20 + [4])
    assert hits(requests, held_bytes(2, 120)) == [0, 100, 120]


@settings(deadline=None, max_examples=100)
@given(requests=traces, budget=st.integers(0, 12_000))
def test_the_plan_can_be_carried_out(requests: list[TraceRequest], budget: int) -> None:
    follow(requests, budget)


def test_what_was_held_for_a_shorter_hit_is_let_go_as_far_as_the_longer_one_needs_it() -> None:
    """The last request was to resume at the start, which needs a state there from 0 on."""
    start, left, right, more = [1] * 100, [2] * 40, [3] * 40, [4] * 2
    requests = asked(
        start + left + more,
        start + right,
        start + left,
        start + right + more + [5] * 40,
        start + left,
        start + right + more,
    )
    follow(requests, 100_000)
    assert hits(requests, 100_000) == [0, 100, 140, 140, 140, 142]


def follow(requests: list[TraceRequest], budget: int) -> None:
    """Token by token: states are where they were computed, or have been held, and fit."""
    plan = Plan(COST, budget, requests)
    wholes = [(request.prompt + request.reply).expand() for request in requests]
    prefixes = {prefix for path in plan.shared for prefix in path}
    before: set[tuple[object, ...]] = set()
    for number, request in enumerate(requests):
        hit = plan.hit(number)
        prompt = tuple(request.prompt.expand())
        read = tuple(wholes[number][: len(prompt) + max(len(request.reply) - 1, 0)])
        assert hit < len(prompt) and (not hit or prompt[:hit] in before)
        states = {
            tuple(wholes[prefix.passes[0]][: prefix.depth])
            for prefix in prefixes
            if prefix.passes[0] <= number and prefix.leaves(number)
        }
        for state in states - before:
            assert read[: len(state)] == state and len(state) > hit
        kv = {state[:length] for state in states for length in range(1, len(state) + 1)}
        assert plan.state_bytes[number] == len(states) * COST.state_bytes
        assert plan.kv_bytes[number] == len(kv) * 10
        assert plan.state_bytes[number] + plan.kv_bytes[number] <= budget
        before = states


def chats(random: Random) -> list[TraceRequest]:
    """Turns of a few conversations under shared system prompts, with parts of replies left out."""
    systems = [[number] * random.randint(5, 80) for number in range(random.randint(1, 3))]
    open_chats = [list(random.choice(systems)) for _ in range(random.randint(1, 6))]
    fresh = 10
    requests = []
    for _ in range(random.randint(2, 40)):
        at = random.randrange(len(open_chats))
        if random.random() < 0.15:
            open_chats[at] = list(random.choice(systems))
        asks, replies = random.randint(1, 40), random.randint(1, 30)
        prompt = [*open_chats[at], *range(fresh, fresh + asks)]
        fresh += asks
        reply = list(range(fresh, fresh + replies))
        fresh += replies
        tokens = Tokens.plain(prompt), Tokens.plain(reply)
        requests.append(TraceRequest(str(at), 0, 0.0, *tokens))
        if random.random() < 0.8:
            dropped = 0 if random.random() < 0.7 else replies // 2
            open_chats[at] = [*prompt, *reply[dropped:]]
    return requests


def total_hits(policy: str, requests: list[TraceRequest], budget: int) -> int:
    cache = build_cache(policy, COST, Budget(budget), requests)
    return sum(cache.serve(request) for request in requests)


def test_small_chats_are_served_as_well_as_by_any_policy() -> None:
    """By more than a little in each; it is no proven bound, so another may be a little ahead."""
    random = Random(7)
    ahead = behind = 0
    for _ in range(150):
        requests = chats(random)
        budget = random.randint(500, 20_000)
        oracle = total_hits(ORACLE, requests, budget)
        best = max(
            total_hits(policy, requests, budget)
            for policy in ("lru", "auto", "sglang+", "marconi:1")
        )
        assert oracle >= 0.95 * best
        ahead += oracle > best
        behind += oracle < best
    assert behind <= 1 and ahead >= 100


@pytest.mark.parametrize(
    ("workload", "budgets"),
    [("lmsys", (0.1, 0.3, 0.7, 3)), ("sharegpt", (0.5, 1, 2, 5)), ("swebench", (1, 3, 10))],
)
def test_no_policy_is_ahead_on_generated_traffic(workload: str, budgets: tuple[float, ...]) -> None:
    requests = generate(workload, sessions=40 if workload != "swebench" else 12, seed=5)
    cost = preset("paper-7b")

    def served(policy: str, gigabytes: float) -> int:
        cache = build_cache(policy, cost, Budget(int(gigabytes * 1e9)), requests)
        return sum(cache.serve(request) for request in requests)

    for gigabytes in budgets:
        others = ("lru", "auto", "marconi:1", "sglang+", "vllm+")
        best = max(served(policy, gigabytes) for policy in others)
        # Where all that is of use fits, nothing is left to be ahead with.
        assert served(ORACLE, gigabytes) - best >= (gigabytes < budgets[-1])
    assert served(ORACLE, 1000) >= served(UNLIMITED, 0)


@pytest.mark.skipif(not AIRLINE.exists(), reason="the real traces are not beside the project")
def test_the_airline_trace_gives_what_a_trial_of_an_oracle_gave() -> None:
    """The trial made room by evicting while it served. Its model takes a state at each branch."""
    requests = list(read_trace(AIRLINE, limit=600))
    cost = replace(preset("paper-7b"), pass_flops=0.0)
    prompts = sum(len(request.prompt) for request in requests)
    for gigabytes, percent in ((1, 66.2), (2, 76.8), (5, 91.8), (10, 95.5)):
        cache = OracleCache(cost, gigabytes * 10**9, requests)
        rate = 100 * sum(cache.serve(request) for request in requests) / prompts
        assert percent - 0.3 < rate < percent + 4
