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
from support.reference import Reference, assert_same

pytestmark = pytest.mark.server

DECODED = 64


def cold(reference: Reference, *prompts: Sequence[int]) -> list[Reply]:
    """The answers where nothing is reused."""
    return reference.answers([(prompt, DECODED) for prompt in prompts])


def test_an_emptied_cache(marconi: LocalServer, reference: Reference) -> None:
    prompt = tokens(157, seed=1)
    for _ in range(2):
        flush(marconi.url)
        reply = generate(marconi.url, prompt, DECODED)
        assert reply.cached_tokens == 0
        assert_same(reply, *cold(reference, prompt))


def test_branching_and_repeated_prompts(marconi: LocalServer, reference: Reference) -> None:
    prefix = tokens(157, seed=1)
    prompts = [prefix + tokens(40 + 13 * i, seed=10 + i) for i in range(4)]
    references = cold(reference, *prompts)
    flush(marconi.url)
    for repeat in range(3):
        for i, (prompt, expected) in enumerate(zip(prompts, references, strict=True)):
            warm = generate(marconi.url, prompt, DECODED)
            assert_same(warm, expected)
            if repeat == 2:
                assert warm.cached_tokens == len(prompt) - 1, i


def test_turns_of_a_chat(marconi: LocalServer, reference: Reference) -> None:
    prompts, prompt = [], tokens(45, seed=2)
    flush(marconi.url)
    for turn in range(4):
        reply = generate(marconi.url, prompt, DECODED)
        prompts.append((prompt, reply))
        prompt = prompt + reply.output_ids + tokens(31, seed=20 + turn)
    assert [reply.cached_tokens for _, reply in prompts[1:]] == [
        len(prompt) + DECODED - 1 for prompt, _ in prompts[:-1]
    ]
    references = cold(reference, *(prompt for prompt, _ in prompts))
    for (_, reply), expected in zip(prompts, references, strict=True):
        assert_same(reply, expected)


def test_prompts_longer_than_a_chunk(marconi: LocalServer, reference: Reference) -> None:
    prefix = tokens(333, seed=3)
    prompts = [prefix + tokens(170, seed=30 + i) for i in range(3)]
    references = cold(reference, *prompts)
    flush(marconi.url)
    warm = [generate(marconi.url, prompt, DECODED) for prompt in prompts]
    assert [reply.cached_tokens for reply in warm] == [0, 0, 333]
    for reply, expected in zip(warm, references, strict=True):
        assert_same(reply, expected)


def test_prompts_batched_together(marconi: LocalServer, reference: Reference) -> None:
    families = [tokens(120 + 17 * i, seed=40 + i) for i in range(3)]
    prompts = [
        prefix + tokens(25, seed=400 + 10 * i + j)
        for j in range(3)
        for i, prefix in enumerate(families)
    ]
    references = cold(reference, *prompts)
    flush(marconi.url)
    for _ in range(3):
        for reply, expected in zip(
            generate_batch(marconi.url, prompts, DECODED), references, strict=True
        ):
            assert_same(reply, expected)


def test_a_reply_that_ends_with_a_stop_token(marconi: LocalServer, reference: Reference) -> None:
    # The overlap scheduler cannot foresee this end and has run one token further.
    prompt = tokens(90, seed=6)
    [foreseen] = cold(reference, prompt)
    stop = next(token for token in foreseen.output_ids[5:] if foreseen.output_ids.count(token) == 1)
    length = foreseen.output_ids.index(stop) + 1
    flush(marconi.url)
    reply = generate(marconi.url, prompt, DECODED, ignore_eos=False, stop_token_ids=[stop])
    assert reply.output_ids == foreseen.output_ids[:length]
    following = [*prompt, *reply.output_ids, *tokens(40, seed=60)]
    warm = generate(marconi.url, following, DECODED)
    assert warm.cached_tokens in (len(prompt) + length - 1, len(prompt) + length)
    assert_same(warm, *cold(reference, following))


def test_after_requests_that_were_aborted(marconi: LocalServer, reference: Reference) -> None:
    prefix = tokens(400, seed=5)
    prompts = [prefix + tokens(30, seed=50 + i) for i in range(3)]
    references = cold(reference, *prompts)
    flush(marconi.url)
    for prompt, expected in zip(prompts, references, strict=True):
        # Hang up at different moments: in the prefill, and while decoding.
        for seconds in (0.02, 0.3):
            _start_and_hang_up(marconi.url, prompt, seconds)
        assert_same(generate(marconi.url, prompt, DECODED), expected)


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
