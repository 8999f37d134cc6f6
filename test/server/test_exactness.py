"""A warm cache must not change an answer: greedy tokens and logprobs as from a cold one."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Sequence

import pytest
from local_server import LocalServer
from support.client import Reply, flush, generate, generate_batch
from support.prompts import tokens
from support.reference import Reference

pytestmark = pytest.mark.server

DECODED = 64


def check(reference: Reference, prompts: Sequence[Sequence[int]], replies: Sequence[Reply]) -> None:
    """They are the answers where nothing is reused."""
    reference.check([(prompt, DECODED) for prompt in prompts], replies)


def test_an_emptied_cache(marconi: LocalServer, reference: Reference) -> None:
    prompt = tokens(157, seed=1)
    for _ in range(2):
        flush(marconi.url)
        reply = generate(marconi.url, prompt, DECODED)
        assert reply.cached_tokens == 0
        check(reference, [prompt], [reply])


def test_branching_and_repeated_prompts(marconi: LocalServer, reference: Reference) -> None:
    prefix = tokens(157, seed=1)
    prompts = [prefix + tokens(40 + 13 * i, seed=10 + i) for i in range(4)]
    flush(marconi.url)
    for repeat in range(3):
        warm = [generate(marconi.url, prompt, DECODED) for prompt in prompts]
        check(reference, prompts, warm)
        if repeat == 2:
            assert [reply.cached_tokens for reply in warm] == [len(p) - 1 for p in prompts]


def test_turns_of_a_chat(marconi: LocalServer, reference: Reference) -> None:
    prompts, replies, prompt = [], [], tokens(45, seed=2)
    flush(marconi.url)
    for turn in range(4):
        reply = generate(marconi.url, prompt, DECODED)
        prompts.append(prompt)
        replies.append(reply)
        prompt = prompt + reply.output_ids + tokens(31, seed=20 + turn)
    assert [reply.cached_tokens for reply in replies[1:]] == [
        len(prompt) + DECODED - 1 for prompt in prompts[:-1]
    ]
    check(reference, prompts, replies)


def test_prompts_longer_than_a_chunk(marconi: LocalServer, reference: Reference) -> None:
    prefix = tokens(333, seed=3)
    prompts = [prefix + tokens(170, seed=30 + i) for i in range(3)]
    flush(marconi.url)
    warm = [generate(marconi.url, prompt, DECODED) for prompt in prompts]
    assert [reply.cached_tokens for reply in warm] == [0, 0, 333]
    check(reference, prompts, warm)


def test_prompts_batched_together(marconi: LocalServer, reference: Reference) -> None:
    families = [tokens(120 + 17 * i, seed=40 + i) for i in range(3)]
    prompts = [
        prefix + tokens(25, seed=400 + 10 * i + j)
        for j in range(3)
        for i, prefix in enumerate(families)
    ]
    flush(marconi.url)
    for _ in range(3):
        check(reference, prompts, generate_batch(marconi.url, prompts, DECODED))


def test_a_reply_that_ends_with_a_stop_token(marconi: LocalServer, reference: Reference) -> None:
    # The overlap scheduler cannot foresee this end and has run one token further.
    prompt = tokens(90, seed=6)
    [foreseen] = reference.answers([(prompt, DECODED)])
    stop = next(token for token in foreseen.output_ids[5:] if foreseen.output_ids.count(token) == 1)
    length = foreseen.output_ids.index(stop) + 1
    flush(marconi.url)
    reply = generate(marconi.url, prompt, DECODED, ignore_eos=False, stop_token_ids=[stop])
    assert reply.output_ids == foreseen.output_ids[:length]
    following = [*prompt, *reply.output_ids, *tokens(40, seed=60)]
    warm = generate(marconi.url, following, DECODED)
    assert warm.cached_tokens in (len(prompt) + length - 1, len(prompt) + length)
    check(reference, [following], [warm])


def test_after_requests_that_were_aborted(marconi: LocalServer, reference: Reference) -> None:
    prefix = tokens(400, seed=5)
    prompts = [prefix + tokens(30, seed=50 + i) for i in range(3)]
    flush(marconi.url)
    for prompt in prompts:
        # Hang up at different moments: in the prefill, and while decoding.
        for seconds in (0.02, 0.3):
            _start_and_hang_up(marconi.url, prompt, seconds)
        check(reference, [prompt], [generate(marconi.url, prompt, DECODED)])


def _start_and_hang_up(url: str, prompt: Sequence[int], seconds: float) -> None:
    body = {
        "input_ids": list(prompt),
        "sampling_params": {"temperature": 0, "max_new_tokens": 500, "ignore_eos": True},
        "stream": True,
    }
    request = urllib.request.Request(
        url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    stream = urllib.request.urlopen(request, timeout=60)
    threading.Event().wait(seconds)
    stream.close()
