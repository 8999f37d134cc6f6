"""Formats that differ in where they have their messages, which are as in the OpenAI API."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sglang_marconi.traces.formats import TraceError, TraceFileError, read_trace
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens
from tokenizers import Tokenizer

CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"at": 9}'}}
SAID = [
    {"role": "system", "content": "You book trains.", "agent": "main"},
    {"role": "user", "content": "To Ulm."},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "name": "find", "content": "9:05"},
    {"role": "assistant", "content": "Booked.", "function_call": None},
]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def lmsys(messages: object) -> dict[str, Any]:
    return {"conversation_id": "c0", "model": "m", "conversation": messages, "turn": 2}


def wildchat(messages: object) -> dict[str, Any]:
    record = {"conversation_hash": "d4", "timestamp": "2023-04-09T00:02:53", "toxic": False}
    return {**record, "conversation": messages}


def tau_bench(messages: object) -> dict[str, Any]:
    return {"task_id": 0, "reward": 1.0, "info": {}, "traj": messages, "trial": 0}


def swe_agent(messages: object) -> dict[str, Any]:
    steps = [{"action": "ls", "observation": "a.py", "response": "I list."}]
    return {"environment": "main", "trajectory": steps, "history": messages, "info": {}}


def batch(messages: object, name: str = "r0") -> dict[str, Any]:
    body = {"model": "m", "messages": messages, "max_tokens": 16}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


CONVERSATIONS = pytest.mark.parametrize("record", [lmsys, wildchat, tau_bench, swe_agent])
ALL = pytest.mark.parametrize("record", [lmsys, wildchat, tau_bench, swe_agent, batch])


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def text(tokenizer: Tokenizer, tokens: Tokens) -> str:
    decoded: str = tokenizer.decode(tokens.ids.tolist())
    return decoded


def write(folder: Path, *records: object) -> Path:
    """Records as lines; a string is a line as it is."""
    file = folder / "trace"
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def names(requests: Sequence[TraceRequest]) -> list[tuple[str, int, float]]:
    return [(r.session_id, r.turn, r.arrival) for r in requests]


@CONVERSATIONS
def test_a_conversation_becomes_requests(
    tmp_path: Path, folder: Path, tokenizer: Tokenizer, record: Any
) -> None:
    for file in (tmp_path / "one.traj", tmp_path / "results.json", tmp_path / "lines"):
        one = record(SAID)
        file.write_text(
            json.dumps([one] if file.suffix == ".json" else one, indent=2 if file.suffix else None)
        )
        first, second = read_trace(file, tokenizer=folder)
        prompt = (
            "<|im_start|>system\nYou book trains.<|im_end|>\n"
            "<|im_start|>user\nTo Ulm.<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        reply = "\n" + json.dumps(CALL, separators=(",", ":")) + "<|im_end|>\n"
        assert text(tokenizer, first.prompt) == prompt
        assert text(tokenizer, first.reply) == reply
        added = "<|im_start|>tool\n9:05<|im_end|>\n<|im_start|>assistant\n"
        assert text(tokenizer, second.prompt) == prompt + reply + added
        assert text(tokenizer, second.reply) == "Booked.<|im_end|>\n"
        assert second.continues == len(first.prompt) + len(first.reply)
        assert (first.session_id, first.turn) == (second.session_id, 0)


@CONVERSATIONS
def test_conversations_are_a_second_apart_whatever_their_ids(
    tmp_path: Path, folder: Path, record: Any
) -> None:
    file = write(tmp_path, *[record(SAID)] * 3)
    requests = list(read_trace(file, tokenizer=folder))
    assert sorted(names(requests)) == [
        *(("1", 0, 0.0), ("1", 1, 1.0)),
        *(("2", 0, 1.0), ("2", 1, 2.0)),
        *(("3", 0, 2.0), ("3", 1, 3.0)),
    ]


@ALL
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("{", "truncated"),
        (None, "Expected `array`, got `null`"),
        ([{"content": "hi"}], "missing required field `role`"),
        ([{"role": "user", "content": 3}], "content"),
        ([{"role": "user", "content": [IMAGE]}], "part of type image_url, and only text"),
        ([*SAID[:2], {"role": "user", "content": [IMAGE]}], "part of type image_url"),
        ([{"role": "user", "tool_calls": [3]}], "Expected `object`"),
    ],
)
def test_a_broken_conversation_is_named_and_may_be_left_out(
    tmp_path: Path, folder: Path, record: Any, broken: Any, reason: str
) -> None:
    line = broken if isinstance(broken, str) else record(broken)
    file = write(tmp_path, record(SAID[:2]), line, record(SAID[:2]))
    with pytest.raises(TraceError, match=reason) as raised:
        list(read_trace(file, tokenizer=folder))
    assert str(raised.value).startswith(f"{file}:2: ")
    errors: list[TraceError] = []
    requests = list(read_trace(file, tokenizer=folder, on_bad=errors.append))
    assert [r.arrival for r in requests] == [0.0, 1.0]
    assert [error.line for error in errors] == [2]


@CONVERSATIONS
def test_a_conversation_of_no_messages_makes_no_request(
    tmp_path: Path, folder: Path, record: Any
) -> None:
    file = write(tmp_path, record([]), record(SAID))
    assert [r.session_id for r in read_trace(file, tokenizer=folder)] == ["2", "2"]


@ALL
def test_text_takes_a_tokenizer(tmp_path: Path, record: Any) -> None:
    with pytest.raises(TraceFileError, match="pass --tokenizer"):
        read_trace(write(tmp_path, record(SAID)), on_bad=lambda error: None)


class TestBatch:
    def test_each_record_is_one_request_without_a_reply(
        self, tmp_path: Path, folder: Path, tokenizer: Tokenizer
    ) -> None:
        file = write(tmp_path, batch(SAID[:2]), batch([*SAID, SAID[1]], "r1"))
        first, second = read_trace(file, tokenizer=folder)
        assert names([first, second]) == [("r0", 0, 0.0), ("r1", 0, 1.0)]
        assert (first.continues, second.continues) == (0, 0)
        assert (len(first.reply), len(second.reply)) == (0, 0)
        opening = "<|im_start|>assistant\n"
        assert text(tokenizer, first.prompt).endswith("To Ulm.<|im_end|>\n" + opening)
        said = text(tokenizer, second.prompt)
        assert said.startswith(text(tokenizer, first.prompt))
        assert said.endswith("Booked.<|im_end|>\n<|im_start|>user\nTo Ulm.<|im_end|>\n" + opening)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"body": {"model": "m", "input": "hi"}}, "missing required field `messages`"),
            ({"body": {"messages": []}}, "length >= 1"),
            ({"custom_id": None}, "custom_id"),
        ],
    )
    def test_what_is_no_chat_is_broken(
        self, tmp_path: Path, folder: Path, changes: dict[str, object], reason: str
    ) -> None:
        file = write(tmp_path, batch(SAID[:2]), {**batch(SAID[:2]), **changes}, batch(SAID, "r2"))
        with pytest.raises(TraceError, match=reason):
            list(read_trace(file, tokenizer=folder))
        errors: list[TraceError] = []
        requests = read_trace(file, tokenizer=folder, on_bad=errors.append)
        assert [r.session_id for r in requests] == ["r0", "r2"]
        assert [error.line for error in errors] == [2]

    def test_output_has_no_prompts(self, tmp_path: Path, folder: Path) -> None:
        answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Seven."}}]}
        response = {"status_code": 200, "request_id": "q", "body": answer}
        record = {"id": "b", "custom_id": "r0", "response": response, "error": None}
        with pytest.raises(TraceFileError, match="take the batch's input"):
            read_trace(write(tmp_path, record), tokenizer=folder)
