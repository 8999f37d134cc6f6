"""The simulator's reused tokens are the server's, request by request."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

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
from support.client import flush
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


def two_pools(cost: ModelCost, kv_tokens: int) -> TwoPoolCache:
    """The pools of a small server, by the number of slots and tokens."""
    return TwoPoolCache(
        cost,
        EvictionPolicy(cost, PredictedReuse()),
        state_bytes=STATES * cost.state_bytes,
        kv_bytes=cost.kv_bytes(kv_tokens),
    )


@pytest.mark.parametrize("seed", range(2))
def test_with_room_for_everything(marconi: LocalServer, cost: ModelCost, seed: int) -> None:
    requests = conversations(seed)
    cache = build_cache("auto", cost, Budget(10**9, state_share=0.5), requests)
    expected = simulated(cache, requests)
    assert cache.evictions == 0
    assert sum(expected) > 0
    assert served(marconi, requests) == expected


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
