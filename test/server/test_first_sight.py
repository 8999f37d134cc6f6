"""Kept on first sight: what was predicted from earlier prompts, on the real server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from families import FAMILIES, build_family
from local_server import LocalServer
from support.client import flush, generate, generate_batch
from support.declaring import CUT
from support.forked_server import ForkedServer
from support.prompts import tokens
from support.reference import WITHOUT_CACHE, Reference

pytestmark = pytest.mark.server

DECODED = 8
SERVING = (
    *("--radix-cache-backend", "marconi", "--enable-cache-report"),
    *("--max-total-tokens", "32768", "--max-running-requests", "8"),
)
EXTRA_BUFFER = ("--mamba-radix-cache-strategy", "extra_buffer")
SERVERS = {
    "extra_buffer": (*("--max-mamba-cache-size", "64"), *EXTRA_BUFFER),
    "no_buffer": (
        *("--max-mamba-cache-size", "64", "--mamba-radix-cache-strategy", "no_buffer"),
        *("--disable-overlap-schedule", "--chunked-prefill-size", "128"),
    ),
    "pages": (*EXTRA_BUFFER, "--page-size", "64", "--max-mamba-cache-size", "96"),
    "store": (
        *("--max-mamba-cache-size", "64"),
        *("--radix-eviction-policy-config", '{"checkpoint_memory": 0.5}'),
    ),
}
# How a template ends each prompt, and what it puts before each question.
HEADER = [301, 302, 303, 304, 305]
QUESTION = [311, 312, 313, 314]


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    with ForkedServer(model, *SERVING, *SERVERS[request.param], log_path=log) as running:
        running.page = 64 if request.param == "pages" else 1
        yield running


def whole(server: LocalServer, count: int) -> int:
    """The whole KV pages of so many tokens."""
    return count // server.page * server.page


def ask(server: LocalServer, reference: Reference, prompt: Sequence[int]) -> tuple[int, list[int]]:
    """What a prompt reuses, and its reply, which is compared with a cold one."""
    reply = generate(server.url, prompt, DECODED)
    reference.check([(prompt, DECODED)], [reply])
    return reply.cached_tokens, reply.output_ids


def test_a_prompt_that_is_sent_again(server: LocalServer, reference: Reference) -> None:
    """Computed twice at first; once such repeats have been seen, only once."""
    found = [
        [ask(server, reference, tokens(600, seed=number))[0] for _ in range(2)]
        for number in range(4)
    ]
    if server.page == 1:
        # With larger pages SGLang tracks states on its grid, one near the end of each prompt.
        assert found[0] == [0, 0]
    assert found[3] == [0, whole(server, 599)]


def test_reasoning_that_is_dropped(server: LocalServer, reference: Reference) -> None:
    """The next turn leaves the last prompt two tokens before its end, and resumes there."""
    found = []
    for number in range(4):
        history = tokens(400, seed=100 + number)
        first = [*history, *HEADER]
        ask(server, reference, first)
        answer = tokens(90, seed=200 + number)
        second = [*history, *HEADER[:3], *answer, *HEADER]
        reused, _ = ask(server, reference, second)
        third = [*second[:-2], *tokens(90, seed=300 + number), *HEADER]
        found.append((reused, ask(server, reference, third)[0], len(second)))
    if server.page == 1:
        assert found[0][0] == 0
    reused, again, length = found[3]
    assert reused == whole(server, 403)
    assert again == whole(server, length - 2)


def test_documents(server: LocalServer, reference: Reference) -> None:
    """The second session of a document resumes at its end, once such places have been seen."""
    found = []
    for number in range(8):
        document = [*tokens(500, seed=400 + number), *QUESTION]
        for session in range(2):
            question = tokens(60, seed=500 + 2 * number + session)
            reused, _ = ask(server, reference, [*document, *question])
        found.append(reused)
    assert found[0] == 0
    assert found[-1] == whole(server, 504)


def test_a_flush_forgets_what_was_learned(server: LocalServer, reference: Reference) -> None:
    for number in range(3):
        for _ in range(2):
            ask(server, reference, tokens(600, seed=number))
    flush(server.url)
    prompt = tokens(600, seed=900)
    first, second = [ask(server, reference, prompt)[0] for _ in range(2)]
    assert first == 0
    if server.page == 1:
        assert second == 0


@pytest.mark.parametrize("way", ["extra_buffer", "no_buffer"])
def test_replies_that_are_not_kept(
    way: str, model: Path, reference: Reference, tmp_path: Path
) -> None:
    """Nothing of what a model thinks is in the tree: the next turn resumes in the prompt."""
    arguments = (
        *(*SERVING, *SERVERS[way]),
        *("--reasoning-parser", "qwen3", "--strip-thinking-cache"),
    )
    with ForkedServer(model, *arguments, log_path=tmp_path / "server.log") as server:
        found = []
        for number in range(6):
            prompt = [*tokens(400, seed=number), *HEADER]
            for turn in range(2):
                reply = generate(server.url, prompt, 60, about={"require_reasoning": True})
                reference.check([(prompt, 60)], [reply])
                answer = tokens(90, seed=100 + 2 * number + turn)
                left, prompt = len(prompt) - 2, [*prompt[:-2], *answer, *HEADER]
            again = generate(server.url, prompt, 1, about={"require_reasoning": True})
            found.append(left - again.cached_tokens)
        assert found[0] > 0 == found[-1]


def test_where_prefills_are_cut(tmp_path: Path) -> None:
    """A state takes a pass of its own there: a prompt has to be long enough to pay for it."""
    family = FAMILIES["ling-2.5"]
    model = build_family(tmp_path / "model", "ling-2.5")
    common = (*family.serving, *CUT, "--page-size", "1")
    with (
        ForkedServer(model, *WITHOUT_CACHE, *common, log_path=tmp_path / "cold.log") as cold,
        ForkedServer(
            model,
            *(*SERVING, *common, "--max-mamba-cache-size", "48"),
            log_path=tmp_path / "server.log",
        ) as server,
    ):
        reference = Reference(cold.url)
        for length, again in ((1200, 1199), (200, 0)):
            found = [
                [ask(server, reference, tokens(length, seed=length + number))[0] for _ in range(2)]
                for number in range(6)
            ]
            assert found[0] == [0, 0]
            assert found[-1] == [0, again]


def test_the_papers_rule_alone(model: Path, reference: Reference, tmp_path: Path) -> None:
    """No repeat is predicted, and nobody waits."""
    options = ("--radix-eviction-policy-config", '{"admission": "seen"}')
    arguments = (*SERVING, *SERVERS["extra_buffer"], *options)
    with ForkedServer(model, *arguments, log_path=tmp_path / "server.log") as server:
        server.page = 1
        for number in range(4):
            prompt = tokens(600, seed=number)
            found = [ask(server, reference, prompt)[0] for _ in range(3)]
            assert found == [0, 0, 599]
        replies = generate_batch(server.url, [tokens(700, seed=50)] * 4, DECODED)
        assert [reply.cached_tokens for reply in replies] == [0] * 4
