"""Two tensor-parallel ranks keep a tree each: they must decide alike, and change no answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from local_server import LocalServer
from sglang_marconi.cli import main
from support.client import Reply, flush, generate, post
from support.forked_server import ForkedServer
from support.prompts import tokens
from support.reference import Reference, assert_same

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        torch.accelerator.device_count() == 1, reason="two ranks need two devices, or none"
    ),
]

POOL_TOKENS = 4096
DECODED = 16
SYSTEMS = [tokens(180 + 30 * i, seed=i) for i in range(3)]
CHATS, TURNS, QUESTIONS = 5, 4, 12


SETTINGS: dict[str, dict[str, float | str]] = {
    "shared slots": {},
    # Checkpoints that move between the device and the host.
    "store": {"checkpoint_memory": 0.5, "host_memory": "200KB"},
}


@pytest.fixture(scope="module", params=SETTINGS)
def two_ranks(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    """A server of two ranks whose pools hold a part of the workload."""
    log = tmp_path_factory.mktemp("log") / "two_ranks.log"
    arguments = (
        *("--radix-cache-backend", "marconi", "--enable-cache-report", "--tp", "2"),
        *("--max-total-tokens", str(POOL_TOKENS), "--max-mamba-cache-size", "24"),
        *("--max-running-requests", "4"),
        *("--radix-eviction-policy-config", json.dumps(SETTINGS[request.param])),
    )
    environment = {
        # SGLang compares the ranks' calls of the tree, with arguments and results where it can,
        # and ends the server where two differ.
        "SGLANG_ENABLE_RANK_CONSENSUS_CHECKER": "1",
        # Without an accelerator SGLang has to be told the cores of each rank.
        "SGLANG_CPU_OMP_THREADS_BIND": "0|1",
    }
    with ForkedServer(model, *arguments, log_path=log, env=environment) as server:
        yield server


Asked = list[tuple[list[int], Reply]]


def ask(url: str, prompts: list[list[int]], clients: int) -> Asked:
    """The prompts with their replies, ``clients`` of them at a time."""
    with ThreadPoolExecutor(clients) as pool:
        replies = list(pool.map(lambda prompt: generate(url, prompt, DECODED), prompts))
    return list(zip(prompts, replies, strict=True))


def check(asked: Asked, reference: Reference) -> None:
    """The replies are those of a server that reuses nothing, of one rank."""
    reference.check([(prompt, DECODED) for prompt, _ in asked], [reply for _, reply in asked])


def chats(url: str, count: int = CHATS, turns: int = TURNS) -> Asked:
    """Conversations that take turns, one request after the other."""
    asked = []
    heads = [SYSTEMS[chat % len(SYSTEMS)] for chat in range(count)]
    for turn in range(turns):
        prompts = [head + tokens(150, seed=100 + 10 * i + turn) for i, head in enumerate(heads)]
        answered = ask(url, prompts, clients=1)
        heads = [prompt + reply.output_ids for prompt, reply in answered]
        asked += answered
    return asked


def test_ranks_change_their_policy_at_the_same_request(
    two_ranks: LocalServer, reference: Reference
) -> None:
    url = two_ranks.url
    flush(url)
    asked = []
    for setting in ("alpha=1.0", "policy=auto", "alpha=0", "policy=auto"):
        with ThreadPoolExecutor(1) as background:
            running = background.submit(chats, url, count=3, turns=3)
            time.sleep(0.5)
            main(["set", url, setting])
            asked += running.result()
    check(asked, reference)
    log = two_ranks.log_path.read_text()
    assert log.count("Marconi: policy marconi, alpha 1.0") == 2
    assert log.count("Marconi: policy auto") == 4
    assert "Found rank divergence" not in log


def test_a_server_refuses_what_cannot_be(two_ranks: LocalServer) -> None:
    refused = post(two_ranks.url, "/set_internal_state", {"server_args": {"marconi_alpha": -1}})
    assert refused == [False]
    refused = post(two_ranks.url, "/set_internal_state", {"server_args": {"marconi_policy": 2}})
    assert refused == [False]


def test_ranks_agree_on_a_workload_larger_than_memory(
    two_ranks: LocalServer, reference: Reference
) -> None:
    url = two_ranks.url
    flush(url)
    questions = [
        SYSTEMS[i % len(SYSTEMS)] + tokens(60 + 10 * i, seed=200 + i) for i in range(QUESTIONS)
    ]
    asked = chats(url) + ask(url, questions, clients=6)
    # What is left of the earlier prompts shows whether the ranks evicted the same.
    asked += ask(url, [prompt for prompt, _ in asked[::4]], clients=1)

    distinct = {hash(tuple(prompt[:end])) for prompt, _ in asked for end in range(len(prompt))}
    assert len(distinct) > 1.25 * POOL_TOKENS
    assert sum(reply.cached_tokens > 0 for _, reply in asked) > len(asked) / 2
    check(asked, reference)
    flush(url)
    prompt, reply = asked[-1]
    cold = generate(url, prompt, DECODED)
    assert cold.cached_tokens == 0
    assert_same(reply, cold)

    log = two_ranks.log_path.read_text()
    assert log.count("Rank consensus checker is enabled") == 2
    assert "Found rank divergence" not in log
