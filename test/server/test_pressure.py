"""More work than memory: evictions, retractions and exhausted slots change no answer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_server import LocalServer
from support.client import flush, generate
from support.forked_server import ForkedServer
from support.prompts import tokens
from support.reference import Reference

pytestmark = pytest.mark.server

STRATEGIES = {
    "no_buffer": ("--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"),
    "extra_buffer": (),
}


@pytest.fixture(scope="module", params=STRATEGIES)
def small(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    """A server whose pools hold a fraction of the workload, checking them whenever it is idle."""
    log = tmp_path_factory.mktemp("log") / "small.log"
    arguments = (
        *("--radix-cache-backend", "marconi", "--enable-cache-report"),
        *("--max-total-tokens", "1536", "--max-mamba-cache-size", "13"),
        *("--max-running-requests", "4", "--chunked-prefill-size", "256"),
        *STRATEGIES[request.param],
    )
    with ForkedServer(model, *arguments, log_path=log) as server:
        yield server


def test_answers_of_a_workload_larger_than_memory(small: LocalServer, reference: Reference) -> None:
    chooser = random.Random(0)
    systems = [tokens(150 + 40 * i, seed=i) for i in range(4)]
    prompts = [
        chooser.choice(systems) + tokens(chooser.randrange(10, 120), seed=100 + i)
        for i in range(40)
    ]
    flush(small.url)
    with ThreadPoolExecutor(8) as clients:
        warm = list(clients.map(lambda prompt: generate(small.url, prompt, 24), prompts))
    assert sum(reply.cached_tokens for reply in warm) > 0
    reference.check([(prompt, 24) for prompt in prompts], warm)
