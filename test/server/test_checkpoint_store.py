"""Checkpoints in a store of their own: the same answers as without it, also short of memory.

Pages of 1, 16 and 64 tokens, each with a store of exact states, with a host, and with lossy ones
among them, in as few servers as that takes. Without buffers SGLang has pages of 1 only.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from local_server import LocalServer
from support.client import Reply, flush, generate
from support.forked_server import ForkedServer
from support.prompts import tokens
from support.reference import TOLERANCE, Reference, assert_same
from tiny_model import build_tiny_model

pytestmark = pytest.mark.server

STRATEGIES = {
    "no_buffer": ("--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"),
    # Overlap scheduling: the device is a pass ahead of what the scheduler has seen.
    "extra_buffer": (),
}
EXACT: dict[str, Any] = {"checkpoint_memory": 0.5}
HOST: dict[str, Any] = {"checkpoint_memory": 0.5, "host_memory": "300KB"}
INT8: dict[str, Any] = {"checkpoint_memory": 0.3, "encoding": "int8", "host_memory": "300KB"}


def served(
    model: Path, log: Path, settings: dict[str, Any], slots: int, *arguments: str
) -> LocalServer:
    """A server with so many state slots to divide; it checks its pools whenever it is idle."""
    # A page that is neither free nor a checkpoint's ends the server.
    strict = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE": "1"}
    return ForkedServer(
        model,
        *("--radix-cache-backend", "marconi", "--enable-cache-report"),
        *("--radix-eviction-policy-config", json.dumps(settings)),
        *("--max-total-tokens", "4096", "--max-mamba-cache-size", str(slots)),
        *("--max-running-requests", "4", "--chunked-prefill-size", "256"),
        *arguments,
        log_path=log,
        env=strict,
    )


class Server(NamedTuple):
    url: str
    page: int


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((EXACT, "no_buffer", 1), id="exact-no_buffer-1"),
        pytest.param((EXACT, "extra_buffer", 1), id="exact-extra_buffer-1"),
        pytest.param((EXACT, "extra_buffer", 16), id="exact-extra_buffer-16"),
        pytest.param((HOST, "extra_buffer", 1), id="host-extra_buffer-1"),
        pytest.param((HOST, "extra_buffer", 64), id="host-extra_buffer-64"),
    ],
)
def exact(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server whose store keeps states as they are, and holds a part of what requests leave."""
    settings, strategy, page = request.param
    log = tmp_path_factory.mktemp("log") / "server.log"
    arguments = (*STRATEGIES[strategy], "--page-size", str(page))
    with served(model, log, settings, 26, *arguments) as server:
        yield Server(server.url, page)


def workload(seed: int, count: int = 40) -> list[list[int]]:
    """Prompts over a few shared beginnings, which leave more states than there is room for."""
    chooser = random.Random(seed)
    systems = [tokens(100 + 40 * i, seed=i) for i in range(4)]
    return [
        chooser.choice(systems) + tokens(chooser.randrange(10, 90), seed=1000 * seed + i)
        for i in range(count)
    ]


def asked(server: Server | LocalServer, prompts: Sequence[list[int]]) -> list[Reply]:
    flush(server.url)
    with ThreadPoolExecutor(8) as clients:
        return list(clients.map(lambda prompt: generate(server.url, prompt, 16), prompts))


def test_places_of_checkpoints(exact: Server) -> None:
    flush(exact.url)
    prefix = tokens(257, seed=1)
    branching = [[*prefix, 1001 + i, *tokens(40, seed=100 + i)] for i in range(3)]
    first, second, third = (generate(exact.url, p, 4).cached_tokens for p in branching)
    assert (first, third) == (0, 257 // exact.page * exact.page)
    # With larger pages the first one may leave what SGLang's prefill kernels track of it.
    assert second == 0 or (exact.page > 1 and second % 64 == 0)
    prompt, seen, ends = tokens(60, seed=4), [], [0]
    for turn in range(4):
        reply = generate(exact.url, prompt, 17)
        seen.append(reply.cached_tokens)
        ends.append((len(prompt) + 16) // exact.page * exact.page)
        prompt = prompt + reply.output_ids + tokens(60, seed=40 + turn)
    assert seen == ends[:-1]


def test_short_requests_lose_no_pages(exact: Server) -> None:
    """Those that end before SGLang has kept a state beside, of which there is none to file."""
    flush(exact.url)
    for turn in range(30):
        generate(exact.url, tokens(5 + turn % 4, seed=turn), 2)
    # The server looks for lost pages whenever it is idle, and would have ended.
    time.sleep(1)
    prompt = tokens(200, seed=50)
    end = (len(prompt) + 69) // exact.page * exact.page
    reply = generate(exact.url, prompt, 70)
    assert generate(exact.url, prompt + reply.output_ids, 1).cached_tokens == end


def test_answers_are_those_of_a_cold_server(exact: Server, reference: Reference) -> None:
    prompts = workload(seed=1)
    warm = asked(exact, prompts)
    assert sum(reply.cached_tokens for reply in warm) > 1000
    reference.check([(prompt, 16) for prompt in prompts], warm)
    assert_same(warm[0], *asked(exact, prompts[:1]))


@pytest.mark.parametrize(
    ("strategy", "page"), [("no_buffer", 1), ("extra_buffer", 16), ("extra_buffer", 64)]
)
def test_lossy_checkpoints_change_log_probabilities_little(
    strategy: str, page: int, tmp_path: Path
) -> None:
    arguments = (*STRATEGIES[strategy], "--page-size", str(page))
    # The demo's model, whose layers are enough for the loss to show.
    model = build_tiny_model(tmp_path / "model")
    with served(model, tmp_path / "server.log", INT8, 26, *arguments) as server:
        first = workload(seed=2)
        replies = asked(server, first)
        # The latest ones first: more of their ends are there than the store could hold exactly.
        turns = [
            prompt + reply.output_ids + tokens(5, seed=i)
            for i, (prompt, reply) in enumerate(zip(first, replies, strict=True))
        ][:-17:-1]
        warm = [generate(server.url, prompt, 1) for prompt in turns]
        assert sum(reply.cached_tokens for reply in warm) > 1000
        worst = 0.0
        for prompt, reply in zip(turns, warm, strict=True):
            flush(server.url)
            cold = generate(server.url, prompt, 1)
            worst = max(worst, abs(reply.logprobs[0] - cold.logprobs[0]))
    # Some states were lossy, none were wrong.
    assert TOLERANCE < worst < 0.05


def test_a_store_that_does_not_fit_is_refused_with_numbers(model: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    settings = {"checkpoint_memory": "1GB"}
    with pytest.raises(Exception, match="ended"), served(model, log, settings, 26):
        pass
    assert "does not fit into" in log.read_text()
