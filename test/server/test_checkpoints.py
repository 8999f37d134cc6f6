"""What the server says it reused: branch points and last tokens, exact to the token."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from local_server import LocalServer
from support.client import flush, generate, generate_batch
from support.prompts import tokens

pytestmark = pytest.mark.server


def reused(server: LocalServer, prompts: list[list[int]], decoded: int = 4) -> list[int]:
    """Tokens reused by each prompt in turn, on an empty cache."""
    flush(server.url)
    return [generate(server.url, prompt, decoded).cached_tokens for prompt in prompts]


@pytest.mark.parametrize(("shared", "prompts"), [(257, 3), (300, 4), (64, 3)])
def test_third_prompt_resumes_where_the_second_branched_off(
    marconi: LocalServer, shared: int, prompts: int
) -> None:
    prefix = tokens(shared, seed=shared)
    asked = [[*prefix, 1001 + i, *tokens(40, seed=100 + i)] for i in range(prompts)]
    assert reused(marconi, asked) == [0, 0] + [shared] * (prompts - 2)


def test_a_token_that_all_prompts_start_with_is_not_worth_a_cut(marconi: LocalServer) -> None:
    first = tokens(1, seed=1)
    asked = [[*first, 1001 + i, *tokens(40, seed=100 + i)] for i in range(3)]
    assert reused(marconi, asked) == [0, 0, 0]


def test_a_repeated_prompt_resumes_before_its_last_token(marconi: LocalServer) -> None:
    assert reused(marconi, [tokens(300, seed=3)] * 3) == [0, 0, 299]


def test_every_turn_resumes_at_the_last_token_of_the_turn_before(marconi: LocalServer) -> None:
    flush(marconi.url)
    prompt, seen = tokens(60, seed=4), []
    for turn in range(4):
        reply = generate(marconi.url, prompt, 17)
        seen.append((len(prompt), reply.cached_tokens))
        prompt = prompt + reply.output_ids + tokens(60, seed=40 + turn)
    assert seen == [(60, 0), (137, 76), (214, 153), (291, 230)]


def test_a_longer_branch_below_a_checkpoint(marconi: LocalServer) -> None:
    system, tools = tokens(100, seed=5), tokens(150, seed=6)
    asked = [system + tokens(30, seed=60 + i) for i in range(2)]
    asked += [system + tools + tokens(30, seed=70 + i) for i in range(3)]
    # The two kinds of prompt part at 100, where the second one leaves a state; the
    # longer ones share 250, found by the fourth prompt and used by the fifth.
    assert reused(marconi, asked) == [0, 0, 100, 100, 250]


def test_branches_of_a_batch_are_taken_one_at_a_time(marconi: LocalServer) -> None:
    flush(marconi.url)
    families = [tokens(200, seed=80 + i) for i in range(3)]
    for i, prefix in enumerate(families):
        generate(marconi.url, prefix + tokens(20, seed=90 + i), 2)
    for attempt in range(4):
        batch = [
            prefix + tokens(20, seed=900 + 10 * attempt + i) for i, prefix in enumerate(families)
        ]
        replies = generate_batch(marconi.url, batch, 2)
        assert all(len(reply.output_ids) == 2 for reply in replies)
    # Whatever could not be cut in one batch was cut in a later one.
    assert [reply.cached_tokens for reply in replies] == [200] * 3


def test_a_prompt_in_flight_already_shows_where_others_branch_off(marconi: LocalServer) -> None:
    flush(marconi.url)
    prefix = tokens(150, seed=7)
    with ThreadPoolExecutor() as background:
        running = background.submit(generate, marconi.url, prefix + tokens(20, seed=700), 400)
        time.sleep(0.5)
        seen = [
            generate(marconi.url, prefix + tokens(20, seed=701 + i), 1).cached_tokens
            for i in range(2)
        ]
        still_running = not running.done()
    assert still_running, "the first request ended too early for this test to mean anything"
    assert seen == [0, 150]
