"""Reuse changes no answer, whatever two options are combined.

Each pair of values below stands together in one of the servers here at least, with whatever else
comes with it there.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from covertable import make
from local_server import LocalServer
from support.client import Reply, flush, generate
from support.forked_server import ForkedServer
from support.prompts import tokens
from support.reference import Reference, assert_same

Arguments = tuple[str, ...]

STRATEGIES: dict[str, Arguments] = {
    "extra_buffer": ("--mamba-radix-cache-strategy", "extra_buffer"),
    "no_overlap": ("--mamba-radix-cache-strategy", "extra_buffer", "--disable-overlap-schedule"),
    "lazy": ("--mamba-radix-cache-strategy", "extra_buffer_lazy"),
    "no_buffer": ("--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"),
}
PAGES = {f"page{size}": ("--page-size", str(size)) for size in (1, 16, 64)}
CHUNKS: dict[str, Arguments] = {
    "whole": ("--chunked-prefill-size", "-1"),
    "chunks": ("--chunked-prefill-size", "128"),
    "mixed": ("--chunked-prefill-size", "128", "--enable-mixed-chunk"),
}
SCHEDULES = {name: ("--schedule-policy", name) for name in ("fcfs", "lpm", "dfs-weight")}
HOMES: dict[str, Arguments] = {
    "slots": (),
    "store": ("--radix-eviction-policy-config", json.dumps({"checkpoint_memory": 0.4})),
    "host": (
        "--radix-eviction-policy-config",
        json.dumps({"checkpoint_memory": 0.4, "host_memory": "300KB"}),
    ),
}
ROOM = {
    "ample": ("--max-total-tokens", "65536", "--max-mamba-cache-size", "96"),
    # Requests are retracted, states and KV evicted.
    "short": ("--max-total-tokens", "2048", "--max-mamba-cache-size", "26"),
}
OPTIONS = {
    "strategy": STRATEGIES,
    "pages": PAGES,
    "chunks": CHUNKS,
    "schedule": SCHEDULES,
    "home": HOMES,
    "room": ROOM,
}
# SGLang's rule: without tracking slots, pages of one token.
ONE_TOKEN = {
    "operator": "or",
    "conditions": [
        {"operator": "ne", "left": "strategy", "value": "no_buffer"},
        {"operator": "eq", "left": "pages", "value": "page1"},
    ],
}


def combinations() -> list[list[str]]:
    """A name for each option, in as few lists as hold all pairs."""
    rows = make({key: list(values) for key, values in OPTIONS.items()}, constraints=[ONE_TOKEN])
    return [[row[option] for option in OPTIONS] for row in rows]


def test_each_pair_is_there() -> None:
    pairs = {
        frozenset(pair)
        for first, second in itertools.combinations(OPTIONS.values(), 2)
        for pair in itertools.product(first, second)
    }
    impossible = {frozenset({"no_buffer", pages}) for pages in PAGES if pages != "page1"}
    found = {frozenset(pair) for row in combinations() for pair in itertools.combinations(row, 2)}
    assert found == pairs - impossible


class Ask(NamedTuple):
    """A request: its prompt and the tokens to generate."""

    prompt: list[int]
    count: int


def beginnings(seed: int) -> list[Ask]:
    """Conversations that share three beginnings, some prompts longer than a chunk."""
    chooser = random.Random(seed)
    shared = [tokens(chooser.randrange(64, 200), seed=seed * 1000 + i) for i in range(3)]
    return [
        Ask(
            shared[i % 3] + tokens(chooser.randrange(5, 260), seed=seed * 1000 + 100 + i),
            chooser.randrange(3, 30),
        )
        for i in range(14)
    ]


def overtaking(seed: int) -> tuple[list[Ask], list[Ask]]:
    """Requests that decode for long, and prompts of several chunks that end beside them.

    Decodes take room from a chunk of the others, whose later chunks then end on no page.
    """
    slow = [Ask(tokens(40, seed=seed * 1000 + i), 100) for i in range(3)]
    quick = [Ask(tokens(330, seed=seed * 1000 + 10 + i), 3) for i in range(4)]
    return slow, quick


def asked(server: LocalServer, asks: Iterable[Ask], *, logprobs: bool = True) -> list[Reply]:
    """The answers to requests, eight of them at a time."""
    with ThreadPoolExecutor(8) as clients:
        return list(
            clients.map(
                lambda ask: generate(server.url, ask.prompt, ask.count, logprobs=logprobs), asks
            )
        )


@pytest.mark.server
@pytest.mark.parametrize("names", combinations(), ids="-".join)
def test_reuse_changes_no_answer(
    names: list[str], model: Path, reference: Reference, tmp_path: Path
) -> None:
    chosen = [option[name] for option, name in zip(OPTIONS.values(), names, strict=True)]
    with ForkedServer(
        model,
        *("--radix-cache-backend", "marconi", "--enable-cache-report"),
        # Without chunks SGLang would keep back more memory than there may be.
        *("--mem-fraction-static", "0.6"),
        *("--max-running-requests", "4" if "short" in names else "16"),
        *(argument for arguments in chosen for argument in arguments),
        log_path=tmp_path / "server.log",
        env={"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE": "1"},
    ) as server:
        first = beginnings(seed=3)
        # SGLang does not mix decodes into the prefill of requests that ask for log probabilities,
        # so the first ones, which fill the cache, do not.
        replies = asked(server, first, logprobs=False)
        turns = [
            Ask(ask.prompt + reply.output_ids + tokens(17, seed=i), 8)
            for i, (ask, reply) in enumerate(zip(first, replies, strict=True))
        ]
        replies += asked(server, [*first, *turns], logprobs=False)
        filling = [*first, *first, *turns]
        slow, quick = overtaking(seed=4)
        with ThreadPoolExecutor(1) as beside:
            decoding = beside.submit(asked, server, slow, logprobs=False)
            for ask in quick:
                generate(server.url, ask.prompt, ask.count, logprobs=False)
            decoding.result()
        probes = [Ask(ask.prompt[:325] + tokens(20, seed=i), 8) for i, ask in enumerate(quick)]
        warm = asked(server, [*probes, *first, *turns])
        assert sum(reply.cached_tokens for reply in warm) > 1000
        flush(server.url)
        cold = generate(server.url, *probes[0])
    assert cold.cached_tokens == 0
    assert_same(warm[0], cold)
    reference.check(filling, replies)
    reference.check([*probes, *first, *turns], warm)
