"""What the simulator reuses of predicted places, and that nothing else changes for them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_marconi.cost import ModelCost, preset
from sglang_marconi.policy.check import check_policy
from sglang_marconi.policy.choice import Place, Prospect
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.registry import make_valuation
from sglang_marconi.simulate import radix_cache
from sglang_marconi.simulate.cache import Budget
from sglang_marconi.simulate.policies import SEEN, build_cache
from sglang_marconi.simulate.radix_cache import RadixCache
from sglang_marconi.simulate.run import Setup, simulate
from sglang_marconi.simulate.shared_budget import SharedBudgetCache
from sglang_marconi.simulate.two_pools import TwoPoolCache
from sglang_marconi.traces.generators import generate
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens
from support.naive_tree import NaiveTree

COST = preset("nemotron-nano-9b-v2")
# A state weighs as much as 20 tokens of KV.
SMALL = ModelCost(
    flops_per_token=100.0, flops_per_token_squared=1.0, state_bytes=200, kv_bytes_per_token=10
)
AMPLE = 10**12
USER, ASSISTANT, THINK, END = 1, 2, 3, 4
SHARES = pytest.mark.parametrize("share", [None, 0.5])


class Client:
    """Sends requests to a cache one after the other."""

    def __init__(self, policy: str = "auto", share: float | None = None) -> None:
        cache = build_cache(policy, COST, Budget(AMPLE, share), [])
        assert isinstance(cache, RadixCache)
        self.cache = cache
        self._fresh = count(1000)

    def words(self, number: int) -> list[int]:
        """Tokens that nobody has sent yet."""
        return [next(self._fresh) for _ in range(number)]

    def ask(self, prompt: list[int], reply: list[int] | None = None) -> int:
        """Tokens that are reused."""
        reply = [*self.words(20), END] if reply is None else reply
        return self.cache.serve(
            TraceRequest("0", 0, 0.0, Tokens.plain(prompt), Tokens.plain(reply))
        )

    def places(self) -> set[Place]:
        """What states are kept for."""
        return {node.place for node in self.cache.policy.nodes() if node.has_state}


# ---- what is reused ----


@SHARES
@pytest.mark.parametrize(("policy", "reused"), [("auto", 599), (SEEN, 0), ("lru", 0)])
def test_a_prompt_that_is_sent_again_is_reused_once_such_repeats_were_seen(
    policy: str, reused: int, share: float | None
) -> None:
    client = Client(policy, share)
    for _ in range(4):
        prompt = client.words(600)
        hits = [client.ask(prompt) for _ in range(2)]
    assert hits == [0, reused]
    # What was seen before, as ever.
    assert client.ask(prompt) == 599
    assert (Place.PROMPT in client.places()) == bool(reused)


@SHARES
def test_reasoning_that_is_dropped_costs_no_turn(share: float | None) -> None:
    """The next turn resumes where the reasoning of the last one began."""

    def chat(client: Client) -> list[int]:
        """How many tokens behind the end of the last prompt each turn resumes."""
        history, behind, last = [USER, *client.words(200), ASSISTANT], [], 0
        for _ in range(5):
            answer = [*client.words(60), END]
            hit = client.ask([*history, THINK], [*client.words(300), THINK, *answer])
            behind.append(last - hit)
            last = len(history)
            history += [*answer, USER, *client.words(40), ASSISTANT]
        return behind

    predicting, seeing = Client("auto", share), Client(SEEN, share)
    for _ in range(3):
        predicted, seen = chat(predicting), chat(seeing)
    assert predicted == [0] * 5
    # Without a prediction a turn resumes where the one before it parted from the tree.
    assert seen == [0, 202, 103, 103, 103]


@SHARES
def test_the_second_session_of_a_document_reuses_it_once_others_were_seen(
    share: float | None,
) -> None:
    def second(client: Client) -> int:
        text = [USER, *client.words(2000), 11, 12, 13]
        return [client.ask([*text, *client.words(40), ASSISTANT]) for _ in range(3)][1]

    predicting, seeing = Client("auto", share), Client(SEEN, share)
    assert [second(predicting) for _ in range(5)][2:] == [2004] * 3
    assert [second(seeing) for _ in range(5)] == [0] * 5
    assert Place.BOUNDARY in predicting.places()


@pytest.mark.parametrize("workload", ["lmsys", "sharegpt"])
@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("gigabytes", [0.5, 2, 100])
def test_chats_that_leave_no_prompt_inside_are_served_as_without_predictions(
    workload: str, gigabytes: float, share: float | None
) -> None:
    trace = generate(workload, sessions=60, seed=5)
    cost = preset("paper-7b")
    served = []
    for predicts in (True, False):
        cache = build_cache("auto", cost, Budget(int(gigabytes * 10**9), share), trace)
        assert isinstance(cache, RadixCache) and cache.predicts
        cache.predicts = predicts
        served.append(
            [(cache.serve(each), cache.state_bytes_held, cache.kv_bytes_held) for each in trace]
        )
    assert served[0] == served[1]
    assert any(hit for hit, _, _ in served[0])


@pytest.mark.parametrize(
    ("policy", "predicts", "waits"),
    [("auto", True, True), (SEEN, False, False), ("marconi:1", False, True), ("lru", False, False)],
)
def test_who_predicts(policy: str, predicts: bool, waits: bool) -> None:
    """A policy that cannot tell a guess from what is known keeps nothing for one."""
    cache = build_cache(policy, COST, Budget(AMPLE), [])
    assert isinstance(cache, RadixCache)
    assert (cache.predicts, cache.waits) == (predicts, waits)


def test_a_trace_of_blocks_predicts_nothing() -> None:
    """What it has for a token tells of 16 of them."""
    client = Client()
    for number in range(20):
        blocks = range(100 * number, 100 * number + 50)
        for some in (40, 50):
            prompt = Tokens.blocks(blocks[:some], 16, 16 * some)
            reply = Tokens.blocks([100 * number + 50 + some], 16, 16)
            client.cache.serve(TraceRequest("0", 0, 0.0, prompt, reply))
    assert client.places() == {Place.END, Place.BRANCH}


def learned() -> Client:
    """It has seen prompts that come twice."""
    client = Client()
    for _ in range(6):
        prompt = client.words(600)
        for _ in range(2):
            client.ask(prompt)
    return client


def kept(client: Client) -> dict[int, Place]:
    """What states are kept for, by depth."""
    nodes = client.cache.policy.nodes()
    return {node.depth: node.place for node in nodes if node.has_state}


@pytest.mark.parametrize(("more", "predicted"), [(12, False), (200, True)])
def test_a_guess_has_to_save_something_beyond_where_the_prompt_resumes(
    more: int, predicted: bool
) -> None:
    client = learned()
    history, reply = client.words(5000), client.words(100)
    client.ask(history, reply)
    prompt = [*history, *reply, *client.words(more)]
    assert client.ask(prompt) == 5099
    assert (kept(client).get(len(prompt) - 1) is Place.PROMPT) == predicted


def test_what_is_sure_is_no_guess() -> None:
    """Where requests that wait part, the state is theirs."""
    client = learned()
    prompt = Tokens.plain(client.words(700))
    replies = [Tokens.plain(client.words(20)) for _ in range(2)]
    both = [TraceRequest(str(at), 0, 0.0, prompt, reply) for at, reply in enumerate(replies)]
    assert client.cache.serve_together(both) == [0, 699]
    assert kept(client)[699] is Place.WAITING


# ---- what is kept where memory is short ----


@SHARES
@pytest.mark.parametrize("worth", [True, False])
def test_where_memory_is_short_a_guess_is_stored_if_the_policy_says_so(
    worth: bool, share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 6 * COST.state_bytes, COST.kv_bytes(6000)
    budget = Budget(sum(room), None if share is None else room[0] / sum(room))
    cache = build_cache("auto", COST, budget, [])
    assert isinstance(cache, RadixCache)
    client = Client()
    client.cache = cache
    for _ in range(12):
        prompt = client.words(600)
        for _ in range(2):
            client.ask(prompt)
    assert cache.evictions
    asked: list[tuple[int, int, Place]] = []

    def admits(above: int, depth: int, place: Place, chance: float) -> bool:
        assert 0.1 <= chance <= 1
        asked.append((above, depth, place))
        return worth

    monkeypatch.setattr(cache.policy, "admits_inside", admits)
    prompt = client.words(650)
    assert client.ask(prompt) == 0
    assert asked == [(0, 649, Place.PROMPT)]
    assert (649 in kept(client)) == worth


@pytest.mark.parametrize(
    ("room", "stored"),
    [(-1, []), (0, []), (1, [200]), (2, [200, 1000]), (3, [200, 600, 1000])],
)
def test_what_is_sure_is_stored_first_then_what_is_likely(room: int, stored: list[int]) -> None:
    client = Client()
    inside = [
        Prospect(200, Place.BRANCH, 1.0),
        Prospect(600, Place.BOUNDARY, 0.5),
        Prospect(1000, Place.PROMPT, 1.0),
    ]
    assert isinstance(client.cache, SharedBudgetCache)
    client.cache._store_inside(Tokens.plain(client.words(1100)), inside, room)
    assert sorted(kept(client)) == stored


@pytest.mark.parametrize(
    ("slots", "chance", "taken"), [(1, 0.2, [200]), (1, 0.5, [1000]), (2, 0.5, [200, 1000])]
)
def test_slots_are_taken_by_the_states_that_are_worth_most(
    slots: int, chance: float, taken: list[int]
) -> None:
    policy = EvictionPolicy(COST, make_valuation("auto"))
    cache = TwoPoolCache(COST, policy, state_bytes=slots * COST.state_bytes, kv_bytes=AMPLE)
    inside = [Prospect(200, Place.BRANCH, 1.0), Prospect(1000, Place.PROMPT, chance)]
    assert [each.tokens for each in cache._take_states_inside(0, inside)] == taken


@SHARES
def test_a_guess_takes_no_room_of_what_is_used(share: float | None) -> None:
    """A hundred prompts that come twice at most, beside a conversation that goes on all the time,
    in a cache that holds the latter and little more."""
    fresh = count(1000)

    def words(number: int) -> list[int]:
        return [next(fresh) for _ in range(number)]

    hot = words(3000)
    reused = {}
    for policy in ("auto", SEEN):
        budget = Budget(4 * COST.state_bytes + COST.kv_bytes(9000), share)
        cache = build_cache(policy, COST, budget, [])
        hits = []
        for number in range(300):
            prompt = [*hot, *words(50)] if number % 3 == 0 else words(600)
            for _ in range(1 if number % 3 == 0 else 1 + number % 2):
                request = TraceRequest("0", 0, 0.0, Tokens.plain(prompt), Tokens.plain(words(20)))
                hit = cache.serve(request)
                if number % 3 == 0 and number > 30:
                    hits.append(hit)
        reused[policy] = hits
    assert min(reused["auto"]) == min(reused[SEEN]) == 3000


def applications(seed: int) -> Iterator[TraceRequest]:
    """Repeats, documents and chats whose reasoning is dropped, of few and short texts."""
    random, fresh = Random(seed), count(1000)

    def words(number: int) -> list[int]:
        return [next(fresh) for _ in range(number)]

    texts = [[USER, *words(random.randint(20, 150)), 11, 12, 13] for _ in range(8)]
    histories: list[list[int]] = [[USER, *words(40), ASSISTANT] for _ in range(4)]
    prompts: list[list[int]] = []
    for _ in range(60):
        which = random.randrange(3)
        if which == 0 and prompts:
            prompt = random.choice(prompts[-6:])
        elif which == 1:
            prompt = [*random.choice(texts), *words(random.randint(1, 60)), ASSISTANT]
        else:
            history = random.choice(histories)
            prompt = [*history, THINK]
            history += [*words(20), END, USER, *words(10), ASSISTANT]
        prompts.append(prompt)
        reply = [*words(random.randint(1, 30)), END]
        yield TraceRequest("0", 0, 0.0, Tokens.plain(prompt), Tokens.plain(reply))


@pytest.mark.parametrize("share", [None, 0.4])
@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    budget=st.integers(1000, 40_000),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_the_books_are_kept_and_nothing_is_hit_that_was_not_there(
    share: float | None, seed: int, budget: int, sizes: list[int]
) -> None:
    trace = list(applications(seed))
    cache = build_cache("auto", SMALL, Budget(budget, share), trace)
    assert isinstance(cache, RadixCache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radix_cache, "RadixTree", NaiveTree)
        naive = build_cache("auto", SMALL, Budget(budget, share), trace)
    before: list[Tokens] = []
    while trace:
        size = sizes[len(before) % len(sizes)]
        group, trace = trace[:size], trace[size:]
        hits = cache.serve_together(group)
        assert hits == naive.serve_together(group)
        for at, (each, hit) in enumerate(zip(group, hits, strict=True)):
            others = [other.prompt + other.reply for other in group[:at]]
            shared = [each.prompt.common_prefix(tokens) for tokens in before + others]
            assert 0 <= hit <= min(max(shared, default=0), len(each.prompt) - 1)
        check_policy(cache.policy)
        nodes = list(cache.policy.nodes())
        assert not any(node.state_in_use for node in nodes)
        assert cache.state_bytes_held == SMALL.state_bytes * sum(node.has_state for node in nodes)
        assert cache.state_bytes_held + cache.kv_bytes_held <= budget
        before += [each.prompt + each.reply for each in group]


def test_such_applications_are_predicted() -> None:
    """Else the test above would see none of it."""
    trace = list(applications(1))
    found = set()
    cache = build_cache("auto", SMALL, Budget(20_000), trace)
    assert isinstance(cache, RadixCache)
    for each in trace:
        cache.serve(each)
        found |= {node.place for node in cache.policy.nodes() if node.has_state}
    assert {Place.PROMPT, Place.BOUNDARY, Place.BRANCH, Place.END} <= found
    hits = {
        policy: simulate(Setup("t", policy, "m", SMALL, Budget(20_000)), trace).run.hit_tokens
        for policy in ("auto", SEEN)
    }
    assert hits["auto"] > hits[SEEN]
