"""The simulator's reused tokens are the server's, request by request."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from local_server import LocalServer
from sglang_marconi.client.server import replay
from sglang_marconi.cost import ModelCost
from sglang_marconi.cost.load import load_cost
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.forms import forms_of
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.simulate.cache import Budget, SimulatedCache
from sglang_marconi.simulate.policies import build_cache
from sglang_marconi.simulate.two_pools import TwoPoolCache
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens
from support.client import flush, generate
from support.forked_server import ForkedServer

pytestmark = pytest.mark.server

# Ids of ordinary tokens in the demo model's vocabulary.
VOCABULARY = range(300, 1000)
SESSIONS, TURNS = 6, 5
# Fewer than the sessions leave behind: about 25 evictions of a state in a conversation's trace.
STATES = 7
ENOUGH_KV, SHORT_KV = 65536, 900


@pytest.fixture(scope="module")
def cost(model: Path) -> ModelCost:
    """By the config, but for KV: the server keeps it in float32, which a config does not say."""
    cost = load_cost(str(model))
    return cost.with_pool_bytes(
        state_bytes=cost.state_bytes, kv_bytes_per_token=2 * cost.kv_bytes_per_token
    )


@pytest.fixture(scope="module")
def small(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    """A server with few state slots and as many tokens as the test asks for.

    It runs one request at a time, which holds one slot and no tracking slots beside it.
    """
    log = tmp_path_factory.mktemp("log") / "small.log"
    with one_at_a_time(model, log, tokens=request.param, slots=STATES) as server:
        yield server


def one_at_a_time(model: Path, log: Path, *arguments: str, tokens: int, slots: int) -> LocalServer:
    """A server that runs one request at a time."""
    return ForkedServer(
        model,
        *("--radix-cache-backend", "marconi", "--enable-cache-report"),
        *("--max-total-tokens", str(tokens), "--max-mamba-cache-size", str(slots)),
        *("--max-running-requests", "1"),
        *("--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"),
        *arguments,
        log_path=log,
    )


def conversations(seed: int) -> list[TraceRequest]:
    """Interleaved sessions over two system prompts, with replies that nobody recorded.

    Nothing but system prompts and histories is shared: messages of different sessions start
    with different tokens.
    """
    chooser = random.Random(seed)

    def text(shortest: int, longest: int) -> list[int]:
        return chooser.choices(range(len(VOCABULARY)), k=chooser.randint(shortest, longest))

    systems = [text(40, 80), text(40, 80)]
    openings = iter(chooser.sample(range(len(VOCABULARY)), SESSIONS))
    said: dict[int, list[int]] = {}
    order = [session for session in range(SESSIONS) for _ in range(TURNS)]
    chooser.shuffle(order)
    requests = []
    for number, session in enumerate(order):
        history = said.get(session, [])
        new = text(15, 40) if history else [*systems[session % 2], next(openings), *text(15, 40)]
        reply = text(8, 20)
        prompt = history + new
        requests.append(
            TraceRequest(
                session_id=str(session),
                turn=order[:number].count(session),
                arrival=float(number),
                prompt=Tokens.plain(prompt),
                reply=Tokens.plain(reply),
                continues=len(history),
            )
        )
        said[session] = prompt + reply
    return requests


def foreseeable(seed: int) -> list[TraceRequest]:
    """Prompts that are sent again, documents with questions, turns that leave the last prompt
    before its end: what is predicted once it has been seen."""
    chooser = random.Random(seed)

    def text(shortest: int, longest: int) -> list[int]:
        return chooser.choices(range(len(VOCABULARY)), k=chooser.randint(shortest, longest))

    header, question = text(5, 5), text(4, 4)
    prompts: list[list[int]] = []
    documents: list[list[int]] = []
    for _ in range(60):
        kind = chooser.random()
        if kind < 0.2 and prompts:
            prompt = chooser.choice(prompts[-6:])
        elif kind < 0.5 and prompts:
            prompt = [*chooser.choice(prompts[-6:])[:-2], *text(30, 60), *header]
        else:
            if kind < 0.75 or not documents:
                documents.append([*text(60, 120), *question])
            prompt = [*chooser.choice(documents[-4:]), *text(40, 60), *header]
        prompts.append(prompt)
    return [
        TraceRequest(str(number), 0, float(number), Tokens.plain(prompt), Tokens.plain(text(4, 12)))
        for number, prompt in enumerate(prompts)
    ]


def served(server: LocalServer, requests: Sequence[TraceRequest]) -> list[int]:
    """What the server says it reused, on an empty cache and one request at a time."""
    flush(server.url)
    records = asyncio.run(
        replay(server.url, requests, trace="test", concurrency=1, vocabulary=VOCABULARY)
    )
    assert [record.prompt_tokens for record in records] == [len(r.prompt) for r in requests]
    return [record.hit_tokens for record in records]


def simulated(cache: SimulatedCache, requests: Sequence[TraceRequest]) -> list[int]:
    return [cache.serve(request) for request in requests]


def two_pools(cost: ModelCost, kv_tokens: int, slots: int = STATES) -> TwoPoolCache:
    """The pools of a small server, by the number of slots and tokens."""
    cache = TwoPoolCache(
        cost,
        EvictionPolicy(cost, PredictedReuse()),
        state_bytes=slots * cost.state_bytes,
        kv_bytes=cost.kv_bytes(kv_tokens),
    )
    cache.predicts = True
    return cache


@pytest.mark.parametrize("seed", range(2))
def test_with_room_for_everything(marconi: LocalServer, cost: ModelCost, seed: int) -> None:
    requests = conversations(seed)
    cache = build_cache("auto", cost, Budget(10**9, state_share=0.5), requests)
    expected = simulated(cache, requests)
    assert cache.evictions == 0
    assert sum(expected) > 0
    assert served(marconi, requests) == expected


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("slots", "tokens"), [(160, ENOUGH_KV), (7, ENOUGH_KV), (7, SHORT_KV)])
def test_what_is_predicted(
    slots: int, tokens: int, seed: int, model: Path, cost: ModelCost, tmp_path: Path
) -> None:
    """The server's replies are part of what it learns."""
    log = tmp_path / "server.log"
    # SGLang's first request of its own would be learned from, too.
    cold = "--skip-server-warmup"
    with one_at_a_time(model, log, cold, tokens=tokens, slots=slots) as server:
        requests, found = [], []
        for request in foreseeable(seed):
            prompt = [VOCABULARY[token] for token in request.prompt.ids]
            reply = generate(server.url, prompt, len(request.reply))
            found.append(reply.cached_tokens)
            answered = Tokens.plain(prompt), Tokens.plain(reply.output_ids)
            requests.append(TraceRequest(request.session_id, 0, request.arrival, *answered))
    caches = {predicts: two_pools(cost, tokens, slots) for predicts in (True, False)}
    for predicts, cache in caches.items():
        cache.predicts = predicts
    assert found == simulated(caches[True], requests)
    unforeseen = simulated(caches[False], requests)
    assert found != unforeseen
    if slots > STATES:
        assert sum(found) > 1.1 * sum(unforeseen)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("small", [ENOUGH_KV], indirect=True)
def test_short_of_states(small: LocalServer, cost: ModelCost, seed: int) -> None:
    requests = conversations(seed)
    cache = two_pools(cost, ENOUGH_KV)
    expected = simulated(cache, requests)
    assert cache.evictions > 20
    assert served(small, requests) == expected


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("small", [SHORT_KV], indirect=True)
def test_short_of_states_and_kv(small: LocalServer, cost: ModelCost, seed: int) -> None:
    requests = conversations(seed)
    cache = two_pools(cost, SHORT_KV)
    expected = simulated(cache, requests)
    assert cache.evictions > 35
    assert served(small, requests) == expected


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("encoding", ["exact", "int8"])
def test_short_of_pages_in_a_store(
    encoding: str, seed: int, model: Path, cost: ModelCost, tmp_path: Path
) -> None:
    requests = conversations(seed)
    log = tmp_path / "store.log"
    settings = json.dumps({"checkpoint_memory": 0.6, "encoding": encoding})
    option = ("--radix-eviction-policy-config", settings)
    with one_at_a_time(model, log, *option, tokens=ENOUGH_KV, slots=STATES) as server:
        found = served(server, requests)
    told = re.search(r"a store of (\d+) pages of (\d+) bytes", log.read_text())
    assert told is not None
    pages, page_bytes = map(int, told.groups())
    sizes = {
        name: int(count) * page_bytes
        for count, name in re.findall(r"(\d+) \((exact|int8)\)", log.read_text())
    }
    exact = sizes.pop("exact")
    forms = forms_of(exact, ("int8", sizes["int8"]) if sizes else None)
    cache = TwoPoolCache(
        cost,
        EvictionPolicy(cost, PredictedReuse(), forms),
        state_bytes=pages * page_bytes,
        kv_bytes=cost.kv_bytes(ENOUGH_KV),
        store=True,
    )
    expected = simulated(cache, requests)
    assert cache.evictions > 0
    assert (cache.demotions > 0) == (encoding != "exact")
    assert found == expected


def burst(chooser: random.Random, starts: list[list[int]]) -> list[list[int]]:
    """Prompts that share starts, parts of starts, or all; some are starts of later ones."""

    def text(shortest: int, longest: int) -> list[int]:
        return chooser.choices(VOCABULARY, k=chooser.randint(shortest, longest))

    prompts: list[list[int]] = []
    for _ in range(7):
        kind = chooser.random()
        start = chooser.choice(starts)
        if kind < 0.3:
            start = start[: chooser.randint(40, len(start))]
        prompt = [*start, *text(5, 60)]
        if kind > 0.8 and prompts:
            prompt = prompts[-1]
        if kind > 0.9:
            starts.append(prompt)
        prompts.append(prompt)
    return prompts


@pytest.mark.parametrize("seed", range(3))
def test_requests_that_arrive_together(
    model: Path, cost: ModelCost, tmp_path: Path, seed: int
) -> None:
    """Bursts, each sent whole: as many are reused as the simulator says, by each of them."""
    chooser = random.Random(seed)
    starts = [chooser.choices(VOCABULARY, k=chooser.randint(50, 200)) for _ in range(2)]
    cache = build_cache("auto", cost, Budget(10**9, state_share=0.5), [])
    with ForkedServer(
        model,
        *("--radix-cache-backend", "marconi", "--enable-cache-report"),
        *("--max-total-tokens", str(ENOUGH_KV), "--max-mamba-cache-size", "200"),
        *("--max-running-requests", "16"),
        *("--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"),
        log_path=tmp_path / "server.log",
    ) as server:
        for _ in range(4):
            prompts = burst(chooser, starts)
            sampling = {"max_new_tokens": 4, "temperature": 0, "ignore_eos": True}
            body = {"input_ids": prompts, "sampling_params": sampling}
            replies = httpx.post(f"{server.url}/generate", json=body, timeout=120).json()
            asked = [
                TraceRequest("0", 0, 0.0, Tokens.plain(prompt), Tokens.plain(reply["output_ids"]))
                for prompt, reply in zip(prompts, replies, strict=True)
            ]
            found = [reply["meta_info"]["cached_tokens"] for reply in replies]
            assert found == cache.serve_together(asked)
            assert sum(found) > 0
