"""Breakpoints of chats: the second conversation reuses what the first declared, in each API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from local_server import LocalServer
from support import chat_templates
from support.client import flush, post, refused
from support.declaring import WAYS, Declared, declaring, with_template
from support.forked_server import MARCONI, ForkedServer
from support.patience import until
from support.reference import TOLERANCE, WITHOUT_CACHE

pytestmark = pytest.mark.server

DECODED = 16
CACHED = {"cache_control": {"type": "ephemeral"}}
SYSTEM = "You answer questions about trains. " * 20
QUESTIONS = ("When does it leave?", "Where to?", "\nWhy?")


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


@pytest.fixture(scope="module")
def cold(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """The same without a prefix cache, which answers chats."""
    folder = tmp_path_factory.mktemp("cold")
    arguments = (*WITHOUT_CACHE, *with_template(folder))
    with ForkedServer(model, *arguments, log_path=folder / "server.log") as running:
        yield running


def text(content: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": content, **more}


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "model": "default",
        "messages": list(messages),
        "max_tokens": DECODED,
        "temperature": 0,
        **more,
    }


class Usage(NamedTuple):
    """Of a prompt: read from the cache, written to it, and neither."""

    read: int
    written: int | None
    rest: int


def complete(url: str, body: dict[str, Any]) -> tuple[Usage, dict[str, Any]]:
    """An answer of ``/v1/chat/completions``."""
    answer = post(url, "/v1/chat/completions", {**body, "logprobs": True})
    return _usage(answer["usage"]), answer


def _usage(usage: dict[str, Any]) -> Usage:
    details = usage["prompt_tokens_details"] or {}
    read, written = details.get("cached_tokens", 0), details.get("cache_write_tokens")
    return Usage(read, written, usage["prompt_tokens"] - read - (written or 0))


def respond(url: str, body: dict[str, Any]) -> tuple[Usage, dict[str, Any]]:
    """An answer of ``/v1/messages``."""
    answer = post(url, "/v1/messages", body)
    return _anthropic_usage(answer["usage"]), answer


def _anthropic_usage(usage: dict[str, Any]) -> Usage:
    return Usage(
        usage.get("cache_read_input_tokens", 0),
        usage.get("cache_creation_input_tokens"),
        usage["input_tokens"],
    )


def assert_same_chat(warm: dict[str, Any], cold: dict[str, Any]) -> None:
    """The same tokens, and as probable."""
    found, expected = (
        [(each["token"], each["logprob"]) for each in answer["choices"][0]["logprobs"]["content"]]
        for answer in (warm, cold)
    )
    assert [token for token, _ in found] == [token for token, _ in expected]
    assert [p for _, p in found] == pytest.approx([p for _, p in expected], abs=TOLERANCE)


TEMPLATES = ["chatml", "thinking", "headers", "merges system", "drops reasoning", "plain"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_chats_with_one_system_prompt(server: Declared, cold: LocalServer, name: str) -> None:
    """The second one reuses it, as written by the first; its answers are those of a cold cache."""
    flush(server.url)
    kwargs = {"chat_template": chat_templates.SHOW_ALL[name]}
    usages = []
    for question in QUESTIONS:
        system = message("system", [text(SYSTEM, **CACHED)])
        body = chat(system, message("user", question), chat_template_kwargs=kwargs)
        usage, answer = complete(server.url, body)
        assert_same_chat(answer, complete(cold.url, body)[1])
        usages.append(usage)
    at = usages[0].written
    assert at is not None
    assert [usage.read for usage in usages] == [0, at, at]
    assert [usage.written for usage in usages] == [at, 0, 0]
    # The system prompt is all but the question and the marks around it.
    assert usages[0].rest < 24 + server.page


def test_messages_with_one_system_prompt(server: Declared, cold: LocalServer) -> None:
    flush(server.url)
    usages = []
    system = [text("Today is Monday. "), text(SYSTEM, **CACHED)]
    for question in QUESTIONS:
        body = chat(message("user", question), system=system)
        usage, answer = respond(server.url, body)
        assert answer["content"] == respond(cold.url, body)[1]["content"]
        usages.append(usage)
    at = usages[0].written
    assert at is not None
    assert [usage.read for usage in usages] == [0, at, at]
    assert [usage.written for usage in usages] == [at, 0, 0]
    assert usages[0].rest < 24 + server.page


def test_the_last_question_is_read_by_the_next_turn(server: Declared, cold: LocalServer) -> None:
    """With a breakpoint that moves on, as agents set it, and a reasoning that is dropped."""
    flush(server.url)
    kwargs = {"chat_template": chat_templates.DROPS_REASONING}
    history = [message("user", SYSTEM)]
    read, written = [], []
    for turn in range(3):
        cached = [*history[:-1], {**history[-1], **CACHED}]
        body = chat(*cached, chat_template_kwargs=kwargs)
        usage, answer = complete(server.url, body)
        assert_same_chat(answer, complete(cold.url, body)[1])
        read.append(usage.read)
        written.append(usage.written)
        said = f"<think>{answer['choices'][0]['message']['content']}</think> Soon."
        history += [message("assistant", said), message("user", f"And {SYSTEM[: 200 + turn]}?")]
    assert read[0] == 0
    assert read[1:] == [read[0] + written[0], read[0] + written[0] + written[1]]


TOOL = {"description": SYSTEM, "input_schema": {"type": "object", "properties": {}}}


def test_tools_with_a_breakpoint(server: Declared) -> None:
    flush(server.url)
    tools = [{"name": "times", **TOOL}, {"name": "fares", **TOOL, **CACHED}]
    usages = [
        respond(server.url, chat(message("user", question), tools=tools, system="Be brief."))[0]
        for question in QUESTIONS
    ]
    at = usages[0].written
    assert at is not None
    assert at > 350
    assert [usage.read for usage in usages] == [0, at, at]


def test_tools_that_the_prompt_does_not_show(server: Declared) -> None:
    """They have no place in it: the request is served without, as ever."""
    tools = [{"name": "times", **TOOL, **CACHED}]
    body = chat(message("user", QUESTIONS[0]), tools=tools, tool_choice={"type": "none"})
    assert not respond(server.url, body)[0].written


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_streams_tell_it_too(extra_buffer: str, path: str) -> None:
    flush(extra_buffer)
    found = []
    for question in QUESTIONS:
        question_of = message("user", question)
        if path == "/v1/messages":
            body = chat(question_of, system=[text(SYSTEM, **CACHED)])
        else:
            body = chat(message("system", SYSTEM, **CACHED), question_of)
            body["stream_options"] = {"include_usage": True}
        stream = post(extra_buffer, path, {**body, "stream": True})
        events = [json.loads(line[6:]) for line in stream.splitlines() if "data: {" in line]
        if path == "/v1/messages":
            usages = [event["message"]["usage"] for event in events if "message" in event]
            found.append(_anthropic_usage(usages[0]))
        else:
            found.append(_usage(events[-1]["usage"]))
    at = found[0].written
    assert at
    assert [(usage.read, usage.written) for usage in found] == [(0, at), (at, 0), (at, 0)]


def test_what_cannot_be_served_is_an_error_of_each_api(extra_buffer: str) -> None:
    many = chat(message("user", [text(str(number), **CACHED) for number in range(5)]))
    hidden = chat(message("system", SYSTEM, **CACHED), message("user", "When?"))
    hidden["chat_template_kwargs"] = {"chat_template": chat_templates.DROPS_SYSTEM}
    for body, said in ((many, "found 5"), (hidden, "messages[0]: the chat template does not")):
        for stream in (False, True):
            status, answer = refused(
                extra_buffer, "/v1/chat/completions", {**body, "stream": stream}
            )
            assert (status, answer["code"], answer["object"]) == (400, 400, "error")
            assert said in answer["message"]
    for stream in (False, True):
        status, answer = refused(extra_buffer, "/v1/messages", {**many, "stream": stream})
        assert (status, answer["type"]) == (400, "error")
        assert answer["error"]["type"] == "invalid_request_error"
        assert "found 5" in answer["error"]["message"]


def test_without_breakpoints_all_is_as_before(extra_buffer: str) -> None:
    flush(extra_buffer)
    body = chat(message("system", SYSTEM), message("user", "When?"))
    usage = post(extra_buffer, "/v1/chat/completions", body)["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
    anthropic = post(extra_buffer, "/v1/messages", chat(message("user", "Why?"), system=SYSTEM))
    assert set(anthropic["usage"]) <= {"input_tokens", "output_tokens", "cache_read_input_tokens"}


def test_workers_of_several_tokenizers(model: Path, tmp_path: Path) -> None:
    """SGLang loads no plugins in them; each serves some of the requests."""
    arguments = (*MARCONI, *with_template(tmp_path), "--tokenizer-worker-num", "2")
    log = tmp_path / "workers.log"
    with LocalServer(model, *arguments, log_path=log) as running:
        until(lambda: log.read_text().count("Application startup complete") == 2)
        usages = []
        for number in range(12):
            body = chat(message("user", f"{number}?"), system=[text(SYSTEM, **CACHED)])
            usages.append(respond(running.url, body)[0])
        at = usages[0].written
        assert at
        assert [(usage.read, usage.written) for usage in usages] == [(0, at), *[(at, 0)] * 11]
