"""Checkpoints in a store of their own: the same answers as without it, also short of memory."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from client import Reply, flush, generate
from local_server import LocalServer
from prompts import tokens

pytestmark = pytest.mark.server

STRATEGIES = {
    "no_buffer": ("--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"),
    # Overlap scheduling: the device is a pass ahead of what the scheduler has seen.
    "extra_buffer": (),
}
EXACT: dict[str, Any] = {"checkpoint_memory": 0.5}
HOST: dict[str, Any] = {"checkpoint_memory": 0.5, "host_memory": "600KB"}
INT8: dict[str, Any] = {"checkpoint_memory": 0.3, "encoding": "int8", "host_memory": "300KB"}


def served(
    model: Path, log: Path, settings: dict[str, Any], slots: int, *arguments: str
) -> LocalServer:
    """A server with so many state slots to divide; it checks its pools whenever it is idle."""
    return LocalServer(
        model,
        *("--radix-cache-backend", "marconi", "--enable-cache-report"),
        *("--radix-eviction-policy-config", json.dumps(settings)),
        *("--max-total-tokens", "4096", "--max-mamba-cache-size", str(slots)),
        *("--max-running-requests", "4", "--chunked-prefill-size", "256"),
        *arguments,
        log_path=log,
    )


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((EXACT, "no_buffer"), id="exact-no_buffer"),
        pytest.param((EXACT, "extra_buffer"), id="exact-extra_buffer"),
        pytest.param((HOST, "extra_buffer"), id="host-extra_buffer"),
    ],
)
def exact(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    """A server whose store keeps states as they are, and holds a part of what requests leave."""
    settings, strategy = request.param
    log = tmp_path_factory.mktemp("log") / "server.log"
    with served(model, log, settings, 26, *STRATEGIES[strategy]) as server:
        yield server


def workload(seed: int, count: int = 40) -> list[list[int]]:
    """Prompts over a few shared beginnings, which leave more states than there is room for."""
    chooser = random.Random(seed)
    systems = [tokens(100 + 40 * i, seed=i) for i in range(4)]
    return [
        chooser.choice(systems) + tokens(chooser.randrange(10, 90), seed=1000 * seed + i)
        for i in range(count)
    ]


def asked(server: LocalServer, prompts: Sequence[list[int]]) -> list[Reply]:
    flush(server.url)
    with ThreadPoolExecutor(8) as clients:
        return list(clients.map(lambda prompt: generate(server.url, prompt, 16), prompts))


def test_places_of_checkpoints(exact: LocalServer) -> None:
    flush(exact.url)
    prefix = tokens(257, seed=1)
    branching = [[*prefix, 1001 + i, *tokens(40, seed=100 + i)] for i in range(3)]
    assert [generate(exact.url, p, 4).cached_tokens for p in branching] == [0, 0, 257]
    prompt, seen = tokens(60, seed=4), []
    for turn in range(4):
        reply = generate(exact.url, prompt, 17)
        seen.append(reply.cached_tokens)
        prompt = prompt + reply.output_ids + tokens(60, seed=40 + turn)
    assert seen == [0, 76, 153, 230]


def test_answers_are_those_of_a_cold_server(exact: LocalServer) -> None:
    prompts = workload(seed=1)
    warm = asked(exact, prompts)
    assert sum(reply.cached_tokens for reply in warm) > 1000
    for prompt, reply in zip(prompts, warm, strict=True):
        flush(exact.url)
        cold = generate(exact.url, prompt, 16)
        assert reply.output_ids == cold.output_ids
        assert reply.logprobs == pytest.approx(cold.logprobs, abs=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_lossy_checkpoints_change_log_probabilities_little(
    strategy: str, model: Path, tmp_path: Path
) -> None:
    with served(model, tmp_path / "server.log", INT8, 26, *STRATEGIES[strategy]) as server:
        prompts = workload(seed=2)
        warm = asked(server, prompts)
        assert sum(reply.cached_tokens for reply in warm) > 1000
        worst = 0.0
        for prompt, reply in zip(prompts, warm, strict=True):
            flush(server.url)
            cold = generate(server.url, prompt, 1)
            worst = max(worst, abs(reply.logprobs[0] - cold.logprobs[0]))
        # Some states were lossy, none were wrong.
        assert 0 < worst < 0.05


def test_a_store_that_does_not_fit_is_refused_with_numbers(model: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    settings = {"checkpoint_memory": "1GB"}
    with pytest.raises(Exception, match="ended"), served(model, log, settings, 26):
        pass
    assert "does not fit into" in log.read_text()
