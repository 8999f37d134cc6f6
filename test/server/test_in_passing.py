"""States taken inside passes, on the real server: those of prefills that end there, in no more
passes than without them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from families import FAMILIES, build_family
from local_server import LocalServer
from support.client import flush, generate, generate_batch
from support.forked_server import MARCONI, ForkedServer
from support.prompts import tokens
from support.taken_states import TakingServer

pytestmark = pytest.mark.server

CHUNK = 128
EXTRA_BUFFER = ("--mamba-radix-cache-strategy", "extra_buffer")
NO_BUFFER = ("--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule")
# Where layers are computed otherwise than in another one of them.
KINDS = [name for name, family in FAMILIES.items() if family.like is None]


@pytest.fixture(scope="module")
def taking(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TakingServer]:
    name: str = request.param
    folder = tmp_path_factory.mktemp("model")
    family = FAMILIES[name]
    with TakingServer(
        build_family(folder, name),
        *("--radix-cache-backend", "marconi", "--enable-cache-report"),
        *("--max-total-tokens", "16384", "--max-mamba-cache-size", "60"),
        *("--max-running-requests", "8", "--chunked-prefill-size", str(CHUNK), "--page-size", "1"),
        *(EXTRA_BUFFER if "extra_buffer" in family.strategies else NO_BUFFER),
        *family.serving,
        folder=folder / "states",
        log_path=folder / "server.log",
    ) as server:
        yield server


def check(server: TakingServer, prompt: Sequence[int], places: Sequence[int]) -> None:
    """What a prompt has left at the places is what prefills leave that end there."""
    taken = [server.state(prompt[:place]) for place in places]
    server.ask_for([])
    for place, state in zip(places, taken, strict=True):
        flush(server.url)
        generate(server.url, prompt[:place], 1)
        for found, alone in zip(state, server.state(prompt[:place]), strict=True):
            scale = alone.abs().max().item() or 1.0
            assert (found - alone).abs().max().item() <= 1e-5 * scale, f"at {place}"
            assert torch.equal(found, alone) or found.is_floating_point()


@pytest.mark.parametrize("taking", KINDS, indirect=True)
def test_a_state_is_that_of_a_prefill_that_ends_there(taking: TakingServer) -> None:
    """One prompt in chunks, and some that share a pass; one of them resumes."""
    chooser = random.Random(7)
    # The first token and those around, edges of chunks of kernels and passes, the last ones.
    places = [1, 2, 3, 63, 64, 65, 128, 129, 192, 255, 299, 300]
    prompt = tokens(300, seed=3)
    taking.ask_for(places)
    generate(taking.url, prompt, 1)
    check(taking, prompt, places)
    flush(taking.url)
    shared = tokens(40, seed=4)
    taking.ask_for([40])
    generate(taking.url, shared, 1)
    prompts = [
        [*shared, *tokens(30, seed=5)],
        tokens(9, seed=6),
        tokens(33, seed=7),
    ]
    places = sorted({1, 2, *chooser.sample(range(3, 70), 8), 41, 42, 69})
    taking.ask_for(places)
    replies = generate_batch(taking.url, prompts, 1)
    assert [reply.cached_tokens for reply in replies] == [40, 0, 0]
    first = [place for place in places if 40 < place <= 70]
    check(taking, prompts[0], first)


def prefill_passes(server: LocalServer) -> int:
    """How many the server has run since it started."""
    return server.log_path.read_text().count("Prefill batch")


@pytest.mark.parametrize("settings", ["{}", '{"checkpoint_memory": 0.5}'], ids=["slots", "store"])
def test_each_prompt_of_a_batch_leaves_its_branch(
    settings: str, model: Path, tmp_path: Path
) -> None:
    """Six prompts at six branch points: six states, in as many passes as without branches."""
    prefixes = [tokens(100 + 7 * number, seed=number) for number in range(6)]

    def prompts(seed: int) -> list[list[int]]:
        return [[*prefix, *tokens(20, seed=seed + at)] for at, prefix in enumerate(prefixes)]

    passes = []
    # Prompts that share nothing, and prompts that branch off.
    for second in ([tokens(120 + 7 * at, seed=50 + at) for at in range(6)], prompts(200)):
        log = tmp_path / f"{len(passes)}.log"
        arguments = (*MARCONI, "--radix-eviction-policy-config", settings)
        with ForkedServer(model, *arguments, log_path=log) as server:
            generate_batch(server.url, prompts(100), 4)
            before = prefill_passes(server)
            generate_batch(server.url, second, 4)
            passes.append(prefill_passes(server) - before)
            third = [reply.cached_tokens for reply in generate_batch(server.url, prompts(300), 4)]
    assert third == [len(prefix) for prefix in prefixes]
    assert passes[0] == passes[1]
