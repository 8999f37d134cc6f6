"""With pages of 16 tokens, states stand at the last whole page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server import LocalServer
from support.client import flush, generate
from support.forked_server import MARCONI, ForkedServer
from support.prompts import tokens
from support.reference import Reference

pytestmark = pytest.mark.server

PAGE = 16


@pytest.fixture(scope="module")
def paged(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server whose KV comes in pages."""
    log = tmp_path_factory.mktemp("log") / "paged.log"
    with ForkedServer(model, *MARCONI, "--page-size", str(PAGE), log_path=log) as server:
        yield server


def test_the_branch_is_the_last_whole_page(paged: LocalServer) -> None:
    flush(paged.url)
    prefix = tokens(173, seed=1)
    seen = [
        generate(paged.url, prefix + tokens(30, seed=10 + i), 1).cached_tokens for i in range(3)
    ]
    assert seen[2] == 160
    # Before that only the coarser positions that SGLang's prefill kernels can track.
    assert seen[0] == 0
    assert seen[1] in range(0, 160, 64)


@pytest.mark.parametrize("decoded", [17, 40, 64])
def test_a_turn_resumes_at_the_last_whole_page(paged: LocalServer, decoded: int) -> None:
    flush(paged.url)
    prompt, resumed, expected = tokens(60, seed=2), [], []
    for turn in range(4):
        reply = generate(paged.url, prompt, decoded)
        resumed.append(reply.cached_tokens)
        expected.append((len(prompt) + decoded - 1) // PAGE * PAGE)
        prompt = prompt + reply.output_ids + tokens(60, seed=20 + turn)
    assert resumed == [0, *expected[:-1]]


def test_answers_do_not_change(paged: LocalServer, reference: Reference) -> None:
    prefix = tokens(157, seed=3)
    prompts = [prefix + tokens(20 + 13 * i, seed=30 + i) for i in range(3)]
    asks = [(prompt, 64) for prompt in prompts]
    flush(paged.url)
    for _ in range(3):
        warm = [generate(paged.url, *ask) for ask in asks]
        reference.check(asks, warm)
    assert warm[-1].cached_tokens > 0
