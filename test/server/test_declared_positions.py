"""Positions that an application declares: the second prompt resumes there, answers stay."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.client import Reply, flush, generate_batch, post, refused
from support.declaring import WAYS, Declared, declaring
from support.prompts import tokens
from support.reference import Reference

pytestmark = pytest.mark.server

DECODED = 16


@pytest.fixture(scope="module", params=WAYS)
def server(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Declared]:
    with declaring(model, tmp_path_factory.mktemp("server"), request.param) as running:
        yield running


@pytest.fixture(scope="module")
def extra_buffer(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The default way; for what all ways have in common."""
    with declaring(model, tmp_path_factory.mktemp("server"), "extra_buffer") as running:
        yield running.url


class Answer(NamedTuple):
    """A reply, and what was read from the cache and written to it."""

    reply: Reply
    written: int | None


def ask(url: str, prompts: Sequence[list[int]], **fields: Any) -> list[Answer]:
    """A batch of prompts; the reply to each."""
    answers = post(
        url,
        "/generate",
        {
            "input_ids": [list(prompt) for prompt in prompts],
            "sampling_params": {"temperature": 0, "max_new_tokens": DECODED, "ignore_eos": True},
            "return_logprob": True,
            **fields,
        },
    )
    return [_answer(each) for each in answers]


def _answer(answer: dict[str, Any]) -> Answer:
    meta = answer["meta_info"]
    logprobs = [entry[0] for entry in meta["output_token_logprobs"]]
    reply = Reply(answer["output_ids"], logprobs, meta["cached_tokens"])
    return Answer(reply, meta.get("cache_write_tokens"))


def test_the_second_prompt_resumes_at_each_position(server: Declared, reference: Reference) -> None:
    flush(server.url)
    prefix = tokens(333, seed=1)
    places = [100, 150, 300]
    first = [*prefix, *tokens(50, seed=2)]
    [answer] = ask(server.url, [first], checkpoints=[places])
    seen = [(first, answer)]
    assert answer.reply.cached_tokens == 0
    assert answer.written == server.whole(300)
    for place in reversed(places):
        prompt = [*prefix[: place + 5], *tokens(40, seed=place)]
        [answer] = ask(server.url, [prompt])
        assert answer.reply.cached_tokens == server.whole(place)
        # Who declares nothing is told nothing.
        assert answer.written is None
        seen.append((prompt, answer))
    reference.check([(prompt, DECODED) for prompt, _ in seen], [answer.reply for _, answer in seen])


def test_a_place_inside_what_the_tree_has(server: Declared, reference: Reference) -> None:
    if server.page > 1:
        pytest.skip("a request that crosses no page while decoding leaves a state of its prefill")
    flush(server.url)
    prefix = tokens(260, seed=3)
    prompts = [[*prefix, *tokens(40, seed=30)], [*prefix, *tokens(40, seed=31)]]
    prompts.append([*prefix[:150], *tokens(60, seed=32)])
    answers = ask(server.url, prompts[:1])
    answers += ask(server.url, prompts[1:2], checkpoints=[[150]])
    answers += ask(server.url, prompts[2:], checkpoints=[[150]])
    assert answers[1].written == server.whole(150)
    assert [answer.reply.cached_tokens for answer in answers] == [0, 0, server.whole(150)]
    assert answers[2].written == 0
    reference.check([(p, DECODED) for p in prompts], [answer.reply for answer in answers])


def test_of_a_batch_each_prompt_has_its_own(server: Declared, reference: Reference) -> None:
    flush(server.url)
    prefixes = [tokens(200, seed=40 + number) for number in range(3)]

    def prompts(seed: int) -> list[list[int]]:
        return [[*prefix, *tokens(30, seed=seed + at)] for at, prefix in enumerate(prefixes)]

    before = ask(server.url, prompts(400), checkpoints=[[100, 200], None, [130]])
    after = ask(server.url, prompts(500))
    # One prefill of a batch can be cut.
    expected = [server.whole(200), 0, 0 if server.cuts else server.whole(130)]
    assert [answer.written for answer in before] == [expected[0], None, expected[2]]
    found = [answer.reply.cached_tokens for answer in after]
    if server.page == 1:
        assert found == expected
    else:  # Where a reply crosses no page, its prefill leaves a state that is further on.
        assert all(at >= least for at, least in zip(found, expected, strict=True))
    asks = [(prompt, DECODED) for prompt in (*prompts(400), *prompts(500))]
    reference.check(asks, [answer.reply for answer in (*before, *after)])


def test_streamed_and_sampled_more_than_once(server: Declared) -> None:
    flush(server.url)
    prefix = tokens(200, seed=5)
    sampling = {"temperature": 0, "max_new_tokens": DECODED, "ignore_eos": True}
    body = {"checkpoints": [150], "sampling_params": sampling, "stream": True}
    text = post(server.url, "/generate", {**body, "input_ids": [*prefix, *tokens(9, seed=50)]})
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert len(chunks) > 1
    assert {chunk["meta_info"]["cache_write_tokens"] for chunk in chunks} == {server.whole(150)}
    prompt = tokens(160, seed=51)
    body = {"checkpoints": [100], "sampling_params": {**sampling, "n": 2}, "input_ids": prompt}
    answers = post(server.url, "/generate", body)
    assert len(answers) == 2
    assert answers[0]["output_ids"] == answers[1]["output_ids"]
    [answer] = ask(server.url, [[*prompt[:120], *tokens(50, seed=52)]])
    assert answer.reply.cached_tokens == server.whole(100)


def test_at_the_same_time(server: Declared, reference: Reference) -> None:
    """Many declare the same places: each answer is its own."""
    prefix = tokens(150, seed=6)
    prompts = [[*prefix, *tokens(20 + number, seed=600 + number)] for number in range(8)]
    for _ in range(2):
        flush(server.url)
        with ThreadPoolExecutor(8) as clients:
            jobs = [
                clients.submit(ask, server.url, [prompt], checkpoints=[[70, 140]])
                for prompt in prompts
            ]
            replies = [job.result()[0].reply for job in jobs]
        reference.check([(prompt, DECODED) for prompt in prompts], replies)
    later = generate_batch(server.url, [[*prefix, *tokens(9, seed=61)]], DECODED)
    assert later[0].cached_tokens >= server.whole(140)
    reference.check([([*prefix, *tokens(9, seed=61)], DECODED)], later)


def test_an_engine_declares_in_custom_parameters(extra_buffer: str) -> None:
    flush(extra_buffer)
    custom = {"marconi_checkpoints": [90]}
    sampling = {"temperature": 0, "max_new_tokens": DECODED, "custom_params": custom}
    prefix = tokens(100, seed=8)
    prompts = [[*prefix, *tokens(20, seed=80 + number)] for number in range(2)]
    answers = [ask(extra_buffer, [prompt], sampling_params=sampling)[0] for prompt in prompts]
    assert [answer.written for answer in answers] == [90, 0]
    assert [answer.reply.cached_tokens for answer in answers] == [0, 90]


@pytest.mark.parametrize(
    ("checkpoints", "said"),
    [
        ([0], "position 0 is not inside the prompt of 20 tokens"),
        ([20], "position 20 is not inside"),
        (5, "a list of token positions"),
        ([1.5], "a list of token positions"),
        (list(range(1, 19)), "at most 16"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_positions_that_a_prompt_has_not(
    extra_buffer: str, checkpoints: object, said: str, stream: bool
) -> None:
    body = {"input_ids": tokens(20, seed=7), "checkpoints": checkpoints, "stream": stream}
    if stream:
        assert said in post(extra_buffer, "/generate", body)
    else:
        status, answer = refused(extra_buffer, "/generate", body)
        assert (status, said in answer["error"]["message"]) == (400, True)


def test_a_batch_needs_a_list_for_each(extra_buffer: str) -> None:
    body = {"input_ids": [tokens(20, seed=7)] * 2, "checkpoints": [[5]], "stream": True}
    status, answer = refused(extra_buffer, "/generate", body)
    assert (status, "each of 2 prompts" in answer["error"]["message"]) == (400, True)
