"""Programs of SGLang's frontend language, on a model that follows no instructions.

Some are SGLang's own test programs, called as they are; the rest say what was reused.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sglang as sgl
from local_server import LocalServer
from sglang.test import test_programs as programs
from support.client import flush

pytestmark = pytest.mark.server

PREAMBLE = "The customer may change a flight once, for a small fee, by phone or by email. " * 8


@pytest.fixture
def endpoint(marconi: LocalServer) -> Iterator[sgl.RuntimeEndpoint]:
    """The server as the default backend of programs, with an empty cache."""
    flush(marconi.url)
    before = sgl.global_config.default_backend
    backend = sgl.RuntimeEndpoint(marconi.url)
    # SGLang's programs look for the endpoint inside an `sgl.Runtime`.
    backend.endpoint = backend
    sgl.set_default_backend(backend)
    yield backend
    sgl.set_default_backend(before)


@pytest.mark.parametrize(
    "program",
    [
        programs.test_mt_bench,
        programs.test_parallel_decoding,
        programs.test_stream,
        programs.test_regex,
        programs.test_gen_min_new_tokens,
        programs.test_chat_completion_speculative,
        pytest.param(lambda: programs.test_select(check_answer=False), id="test_select"),
        pytest.param(
            lambda: programs.test_expert_answer(check_answer=False), id="test_expert_answer"
        ),
    ],
)
def test_sglang_program(endpoint: sgl.RuntimeEndpoint, program: Callable[[], None]) -> None:
    program()


def run(program: Any, **arguments: Any) -> Any:
    """Run a program to its end; by itself `run` returns while the last request is on its way."""
    state = program.run(**arguments)
    state.sync()
    return state


def reused(state: Any, variable: str) -> int:
    """Prompt tokens the server reused for one generated variable."""
    return int(state.get_meta_info(variable)["cached_tokens"])


def test_a_program_run_again_reuses_its_prompt(endpoint: sgl.RuntimeEndpoint) -> None:
    @sgl.function
    def ask(s: Any, question: str) -> None:
        s += PREAMBLE
        s += question + sgl.gen("answer", max_tokens=8, temperature=0, ignore_eos=True)

    states = [run(ask, question=question) for question in ("Red?", "Blue?", "Green?", "Green?")]
    first, second, third, repeated = (reused(state, "answer") for state in states)
    assert first == second == 0
    assert third > 0
    assert repeated > 0
    assert third == pytest.approx(
        states[2].get_meta_info("answer")["prompt_tokens"], abs=len("Green?")
    )
    assert states[2]["answer"] == states[3]["answer"]


def test_a_second_generation_goes_on_from_the_first(endpoint: sgl.RuntimeEndpoint) -> None:
    @sgl.function
    def chat(s: Any) -> None:
        s += PREAMBLE
        s += sgl.gen("one", max_tokens=12, temperature=0, ignore_eos=True)
        s += " Then: " + sgl.gen("two", max_tokens=12, temperature=0, ignore_eos=True)

    state = run(chat)
    assert reused(state, "one") == 0
    # The reply's text comes back as the tokens that were generated.
    assert reused(state, "two") == state.get_meta_info("one")["prompt_tokens"] + 11


def test_forks_share_their_beginning(endpoint: sgl.RuntimeEndpoint) -> None:
    topics = ["price", "hotel", "luggage", "seat"]

    @sgl.function
    def branches(s: Any) -> None:
        s += PREAMBLE
        forks = s.fork(len(topics))
        for i, topic in enumerate(topics):
            forks[i] += f"About the {topic}:" + sgl.gen("tip", max_tokens=8, ignore_eos=True)
        forks.join()
        for topic, fork in zip(topics, forks, strict=True):
            s += f"{topic}: {fork['tip']}\n"
            s.set_var(topic, fork.get_meta_info("tip"))
        s += "In short," + sgl.gen("summary", max_tokens=8, ignore_eos=True)

    # Forks of a first run may run together and find no state; those of the third do.
    for _ in range(3):
        state = run(branches, temperature=0)
        assert state["summary"]
    assert all(state[topic]["completion_tokens"] == 8 for topic in topics)
    assert all(state[topic]["cached_tokens"] > 100 for topic in topics)


def test_parallel_encoding(endpoint: sgl.RuntimeEndpoint) -> None:
    """Statements encoded in forks, then joined by their text.

    SGLang's own program joins them by their KV, at an endpoint that its server no longer has.
    """
    statements = [f"Statement {i}: {name} keeps the key.\n" for i, name in enumerate(("Ada", "Bo"))]

    @sgl.function
    def encode(s: Any) -> None:
        s += PREAMBLE
        forks = s.fork(len(statements))
        for i, statement in enumerate(statements):
            forks[i] += statement + sgl.gen("note", max_tokens=4, ignore_eos=True)
        forks.join()
        s += "".join(statements) + "".join(fork["note"] for fork in forks)
        s += "Who keeps it?" + sgl.gen("answer", max_tokens=8, ignore_eos=True)

    states = [run(encode, temperature=0) for _ in range(3)]
    assert len({state["answer"] for state in states}) == 1
    assert reused(states[0], "answer") <= reused(states[1], "answer")
    assert reused(states[2], "answer") == states[2].get_meta_info("answer")["prompt_tokens"] - 1


def test_select_takes_one_of_its_choices_each_time(endpoint: sgl.RuntimeEndpoint) -> None:
    choices = ["refund", "exchange", "cancel"]

    @sgl.function
    def decide(s: Any) -> None:
        s += PREAMBLE + "The agent will "
        s += sgl.select("choice", choices, temperature=0)

    flush(endpoint.base_url)
    states = [run(decide) for _ in range(3)]
    chosen = [state["choice"] for state in states]
    assert chosen[0] in choices
    assert chosen == [chosen[0]] * 3
    scores = [state.get_meta_info("choice")["normalized_prompt_logprobs"] for state in states]
    for again in scores[1:]:
        assert again == pytest.approx(scores[0], abs=1e-4)


@pytest.mark.parametrize("pattern", [r"[0-9]{3}-[0-9]{4}", r"(yes|no|perhaps)"])
def test_regex(endpoint: sgl.RuntimeEndpoint, pattern: str) -> None:
    @sgl.function
    def answer(s: Any) -> None:
        s += PREAMBLE + "Answer: "
        s += sgl.gen("text", max_tokens=24, temperature=0, regex=pattern)

    for _ in range(3):
        state = run(answer)
        assert re.fullmatch(pattern, state["text"])
    assert reused(state, "text") > 100


def test_choices_of_gen(endpoint: sgl.RuntimeEndpoint) -> None:
    @sgl.function
    def answer(s: Any) -> None:
        s += PREAMBLE + "The mood is " + sgl.gen("mood", choices=["good", "bad", "fair"])

    assert run(answer)["mood"] in ("good", "bad", "fair")


def test_tree_search(endpoint: sgl.RuntimeEndpoint) -> None:
    """Two levels of forks, the better half of each level going on."""

    def expand(s: Any, width: int) -> list[Any]:
        forks = s.fork(width)
        for i in range(width):
            forks[i] += f" Step {i}:" + sgl.gen("step", max_tokens=6, ignore_eos=True)
            forks[i] += " It is" + sgl.select("vote", [" good", " bad"])
        return list(forks)

    @sgl.function
    def search(s: Any) -> None:
        s += PREAMBLE
        beams = [s]
        for _ in range(2):
            leaves = [leaf for beam in beams for leaf in expand(beam, 3)]
            leaves.sort(key=lambda leaf: leaf["vote"])
            beams = leaves[:2]
        s.set_var("steps", [beam["step"] for beam in beams])
        s.set_var("votes", [beam["vote"] for beam in beams])

    runs = [run(search, temperature=0) for _ in range(2)]
    assert runs[0]["steps"] == runs[1]["steps"]
    assert runs[0]["votes"] == runs[1]["votes"]
    assert all(runs[0]["steps"])


def test_streamed_text_is_the_text(endpoint: sgl.RuntimeEndpoint) -> None:
    @sgl.function
    def tell(s: Any) -> None:
        s += PREAMBLE + sgl.gen("story", max_tokens=32, temperature=0, ignore_eos=True)

    whole = run(tell)["story"]
    streamed = tell.run(stream=True)
    assert "".join(streamed.text_iter("story")) == whole


def test_streamed_logprobs(endpoint: sgl.RuntimeEndpoint) -> None:
    """As many as tokens so far: SGLang's own program expects increments, not the default."""

    @sgl.function
    def tell(s: Any) -> None:
        s += PREAMBLE
        s += sgl.gen("story", max_tokens=32, temperature=0, ignore_eos=True, return_logprob=True)

    async def collect() -> list[tuple[str, dict[str, Any]]]:
        state = tell.run(stream=True)
        return [chunk async for chunk in state.text_async_iter("story", return_meta_data=True)]

    runs = [asyncio.run(collect()) for _ in range(3)]
    for chunks in runs:
        assert all(
            len(meta["output_token_logprobs"]) == meta["completion_tokens"] for _, meta in chunks
        )
    last = [chunks[-1][1]["output_token_logprobs"] for chunks in runs]
    assert len(last[0]) == 32
    for again in last[1:]:
        assert [entry[1] for entry in again] == [entry[1] for entry in last[0]]
        assert [entry[0] for entry in again] == pytest.approx(
            [entry[0] for entry in last[0]], abs=1e-4
        )


def test_a_batch_of_programs(endpoint: sgl.RuntimeEndpoint) -> None:
    @sgl.function
    def ask(s: Any, question: str) -> None:
        s += PREAMBLE + question
        s += sgl.gen("answer", max_tokens=8, temperature=0, ignore_eos=True)

    questions = [{"question": f"Question {i}?"} for i in range(6)]
    alone = [run(ask, **question)["answer"] for question in questions]
    together = [state["answer"] for state in ask.run_batch(questions, num_threads=6)]
    assert together == alone
