"""Traces of conversations, which take a tokenizer and make their own times."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_marconi.traces.formats import TraceError, TraceFileError, read_trace
from sglang_marconi.traces.formats.conversations import (
    ConversationTokenizer,
    Session,
    Spoken,
    interleave,
)
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

SAID = {"system": "be kind", "user": "how are you", "assistant": "well", "tool": "42"}


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def text(tokenizer: Tokenizer, tokens: Tokens) -> str:
    decoded: str = tokenizer.decode(tokens.ids.tolist())
    return decoded


def chat(*roles: str, **fields: object) -> str:
    messages = [{"role": role, "content": SAID[role]} for role in roles]
    return json.dumps({"messages": messages, **fields})


def write(folder: Path, *lines: str) -> Path:
    file = folder / "trace"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def sharegpt(folder: Path, *conversations: object) -> Path:
    """An item is a list of (from, value), or broken if it is something else."""
    items = [
        {"id": "same", "conversations": [{"from": who, "value": said} for who, said in item]}
        if isinstance(item, list)
        else item
        for item in conversations
    ]
    return write(folder, json.dumps(items))


class TestChat:
    def test_each_assistant_message_ends_a_request(
        self, tmp_path: Path, folder: Path, tokenizer: Tokenizer
    ) -> None:
        file = write(tmp_path, chat("system", "user", "assistant", "tool", "assistant"))
        first, second = read_trace(file, tokenizer=folder)
        prompt = (
            "<|im_start|>system\nbe kind<|im_end|>\n"
            "<|im_start|>user\nhow are you<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        assert text(tokenizer, first.prompt) == prompt
        assert text(tokenizer, first.reply) == "well<|im_end|>\n"
        added = "<|im_start|>tool\n42<|im_end|>\n<|im_start|>assistant\n"
        assert text(tokenizer, second.prompt) == prompt + "well<|im_end|>\n" + added
        assert (first.turn, first.continues) == (0, 0)
        assert (second.turn, second.continues) == (1, len(first.prompt) + len(first.reply))

    def test_messages_without_an_answer_are_a_request_without_a_reply(
        self, tmp_path: Path, folder: Path, tokenizer: Tokenizer
    ) -> None:
        file = write(tmp_path, chat("user", "assistant", "user"))
        answered, open_ = read_trace(file, tokenizer=folder)
        assert len(answered.reply) > 0
        assert len(open_.reply) == 0
        assert text(tokenizer, open_.prompt).endswith(
            "how are you<|im_end|>\n<|im_start|>assistant\n"
        )
        assert open_.continues == len(answered.prompt) + len(answered.reply)

    def test_a_greeting_is_the_beginning_of_the_first_prompt(
        self, tmp_path: Path, folder: Path, tokenizer: Tokenizer
    ) -> None:
        [request] = read_trace(
            write(tmp_path, chat("assistant", "user", "assistant")), tokenizer=folder
        )
        assert text(tokenizer, request.prompt).startswith("<|im_start|>assistant\nwell<|im_end|>\n")

    @pytest.mark.parametrize("roles", [(), ("assistant",), ("assistant", "assistant")])
    def test_where_nobody_asks_there_is_no_request(
        self, tmp_path: Path, folder: Path, roles: tuple[str, ...]
    ) -> None:
        file = write(tmp_path, chat(*roles), chat("user"))
        assert [r.session_id for r in read_trace(file, tokenizer=folder)] == ["2"]

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            ({"content": None}, ""),
            ({}, ""),
            ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
            ({"content": None, "tool_calls": None}, ""),
            (
                {"content": "x", "tool_calls": [{"id": "1", "n": 2}, {"id": "2"}]},
                'x\n{"id":"1","n":2}\n{"id":"2"}',
            ),
        ],
    )
    def test_what_a_message_says(
        self,
        tmp_path: Path,
        folder: Path,
        tokenizer: Tokenizer,
        message: dict[str, object],
        expected: str,
    ) -> None:
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", **message}]
        [request] = read_trace(
            write(tmp_path, json.dumps({"messages": messages})), tokenizer=folder
        )
        assert text(tokenizer, request.reply) == f"{expected}<|im_end|>\n"

    def test_a_session_is_named_by_its_id_or_its_line(self, tmp_path: Path, folder: Path) -> None:
        lines = [chat("user", session_id="s", id="i"), chat("user", id=7), chat("user")]
        requests = read_trace(write(tmp_path, *lines), tokenizer=folder)
        assert [request.session_id for request in requests] == ["s", "7", "3"]

    def test_without_time_stamps_sessions_are_a_second_apart(
        self, tmp_path: Path, folder: Path
    ) -> None:
        requests = read_trace(write(tmp_path, *[chat("user")] * 3), tokenizer=folder)
        assert [request.arrival for request in requests] == [0.0, 1.0, 2.0]

    def test_time_stamps_count_from_the_first(self, tmp_path: Path, folder: Path) -> None:
        lines = [chat("user", ts=1e9), chat("user", ts=1e9), chat("user", timestamp=1e9 + 2.5)]
        requests = read_trace(write(tmp_path, *lines), tokenizer=folder)
        assert [(r.session_id, r.arrival) for r in requests] == [("1", 0), ("2", 0), ("3", 2.5)]

    def test_turns_wait_for_the_user_to_type(self, tmp_path: Path, folder: Path) -> None:
        file = write(tmp_path, chat("user", "assistant", "tool", "assistant", "user"))
        # A second, and two more for the three words at 90 a minute, of the user only.
        assert [r.arrival for r in read_trace(file, tokenizer=folder)] == [0.0, 1.0, 4.0]

    def test_sessions_interleave(self, tmp_path: Path, folder: Path) -> None:
        file = write(tmp_path, *[chat("user", "assistant", "user", "assistant")] * 5)
        requests = list(read_trace(file, tokenizer=folder))
        assert [(r.arrival, r.session_id) for r in requests] == [
            (0, "1"),
            (1, "2"),
            (2, "3"),
            (3, "1"),
            (3, "4"),
            (4, "2"),
            (4, "5"),
            (5, "3"),
            (6, "4"),
            (7, "5"),
        ]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("{", "truncated"),
            ('{"messages": [{"content": "hi"}]}', "missing required field `role`"),
            ('{"messages": [{"role": "user", "content": 3}]}', "content"),
            ('{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', "text without one"),
            (
                '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
                "part of type image_url, and only text can be replayed: .* --skip-bad",
            ),
            (chat("user", ts=4), "starts at 4.0, before the session before it"),
            (chat("user"), "all records have a time stamp or none has"),
            (chat("user", ts=9, id="a"), "session a is there already"),
        ],
    )
    def test_a_broken_line_is_named_and_may_be_left_out(
        self, tmp_path: Path, folder: Path, line: str, reason: str
    ) -> None:
        whole = [chat("user", ts=ts, id=id) for ts, id in ((5, "a"), (6, "b"), (7, "c"))]
        file = write(tmp_path, *whole[:2], line, whole[2])
        with pytest.raises(TraceError, match=reason) as raised:
            list(read_trace(file, tokenizer=folder))
        assert str(raised.value).startswith(f"{file}:3: ")
        errors: list[TraceError] = []
        requests = read_trace(file, tokenizer=folder, on_bad=errors.append)
        assert [(r.session_id, r.arrival) for r in requests] == [("a", 0), ("b", 1), ("c", 2)]
        assert [error.line for error in errors] == [3]

    def test_lines_beyond_the_limit_are_not_read(self, tmp_path: Path, folder: Path) -> None:
        file = write(tmp_path, chat("user"), "broken")
        assert len(list(read_trace(file, tokenizer=folder, limit=1))) == 1


class TestShareGpt:
    def test_a_conversation_becomes_requests(
        self, tmp_path: Path, folder: Path, tokenizer: Tokenizer
    ) -> None:
        said = [("system", "s"), ("human", "a b"), ("gpt", "c"), ("human", "d e f"), ("gpt", "g")]
        first, second = read_trace(sharegpt(tmp_path, said), tokenizer=folder)
        assert text(tokenizer, second.prompt) == (
            "<|im_start|>system\ns<|im_end|>\n"
            "<|im_start|>user\na b<|im_end|>\n"
            "<|im_start|>assistant\nc<|im_end|>\n"
            "<|im_start|>user\nd e f<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        assert text(tokenizer, second.reply) == "g<|im_end|>\n"
        assert second.continues == len(first.prompt) + len(first.reply)
        assert (first.arrival, second.arrival) == (0.0, 3.0)

    @pytest.mark.parametrize("model", ["gpt", "chatgpt", "bing", "bard", "assistant"])
    def test_a_model_by_any_name_replies(
        self, tmp_path: Path, folder: Path, tokenizer: Tokenizer, model: str
    ) -> None:
        said = [("user", "a"), (model, "b"), ("tool", "c")]
        first, second = read_trace(sharegpt(tmp_path, said), tokenizer=folder)
        assert text(tokenizer, first.reply) == "b<|im_end|>\n"
        assert "<|im_start|>tool\nc<|im_end|>" in text(tokenizer, second.prompt)

    def test_sessions_are_a_second_apart_and_ids_may_repeat(
        self, tmp_path: Path, folder: Path
    ) -> None:
        file = sharegpt(tmp_path, *[[("human", "a"), ("gpt", "b")]] * 3)
        requests = list(read_trace(file, tokenizer=folder))
        assert [(r.session_id, r.arrival) for r in requests] == [("0", 0), ("1", 1), ("2", 2)]

    @pytest.mark.parametrize("broken", [7, {"id": "x"}, {"conversations": [{"from": "human"}]}])
    def test_a_broken_conversation_is_named_by_its_index(
        self, tmp_path: Path, folder: Path, broken: object
    ) -> None:
        file = sharegpt(tmp_path, [("human", "a")], broken, [("human", "c")])
        with pytest.raises(TraceError) as raised:
            list(read_trace(file, tokenizer=folder))
        assert str(raised.value).startswith(f"{file}: item 1: ")
        assert raised.value.line is None
        errors: list[TraceError] = []
        requests = read_trace(file, tokenizer=folder, on_bad=errors.append)
        assert [(r.session_id, r.arrival) for r in requests] == [("0", 0), ("2", 1)]
        assert len(errors) == 1

    def test_the_limit_counts_requests(self, tmp_path: Path, folder: Path) -> None:
        file = sharegpt(tmp_path, *[[("human", "a"), ("gpt", "b"), ("human", "c")]] * 3)
        requests = list(read_trace(file, tokenizer=folder, limit=4))
        assert [(r.session_id, r.turn) for r in requests] == [
            ("0", 0),
            ("1", 0),
            ("0", 1),
            ("2", 0),
        ]


class TestTokenizer:
    @pytest.mark.parametrize("lines", [[chat("user")], ['[{"conversations": []}]']])
    def test_text_without_one_is_refused_at_once(self, tmp_path: Path, lines: list[str]) -> None:
        file = write(tmp_path, *lines)
        with pytest.raises(TraceFileError, match="pass --tokenizer") as raised:
            read_trace(file, on_bad=lambda error: None)
        assert str(file) in str(raised.value)

    def test_the_file_and_its_directory_are_the_same(self, tmp_path: Path, folder: Path) -> None:
        file = write(tmp_path, chat("user"))
        [a] = read_trace(file, tokenizer=folder)
        [b] = read_trace(file, tokenizer=folder / "tokenizer.json")
        assert a.prompt.expand() == b.prompt.expand()

    @pytest.mark.parametrize("name", ["", "missing.json"])
    def test_one_that_is_not_there_is_said_so(self, tmp_path: Path, name: str) -> None:
        file = write(tmp_path, chat("user"))
        with pytest.raises(FileNotFoundError, match="no tokenizer at"):
            read_trace(file, tokenizer=tmp_path / name)

    def test_one_that_cannot_be_read_is_said_so(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text("{}")
        with pytest.raises(ValueError, match=r"tokenizer.json: not a tokenizer"):
            read_trace(write(tmp_path, chat("user")), tokenizer=tmp_path)

    def test_special_tokens_are_not_added(self, tmp_path: Path, tokenizer: Tokenizer) -> None:
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
        tokenizer.add_special_tokens(["<s>"])
        bos = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", bos)])
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        [request] = read_trace(write(tmp_path, chat("user", "assistant")), tokenizer=tmp_path)
        assert bos not in {*request.prompt.ids.tolist(), *request.reply.ids.tolist()}


spoken = st.lists(
    st.builds(Spoken, st.sampled_from(sorted(SAID)), st.text("ab ", max_size=5)), max_size=9
)


@given(spoken)
@settings(deadline=None)
def test_a_conversation_only_grows(folder: Path, messages: Sequence[Spoken]) -> None:
    requests = list(ConversationTokenizer(folder).session("s", 2.0, messages).requests)
    assert [request.turn for request in requests] == list(range(len(requests)))
    for before, after in pairwise(requests):
        earlier = before.prompt + before.reply
        assert len(before.reply) > 0
        assert after.continues == len(earlier) == earlier.common_prefix(after.prompt)
        assert len(after.prompt) > len(earlier)
        assert after.arrival >= before.arrival + 1
    asked = any(message.role != "assistant" for message in messages)
    assert bool(requests) == asked
    if requests:
        rendered = sum(len(f"<|im_start|>{m.role}\n{m.text}<|im_end|>\n") for m in messages)
        unanswered = messages[-1].role != "assistant"
        opening = len("<|im_start|>assistant\n") if unanswered else 0
        last = requests[-1]
        assert len(last.prompt) + len(last.reply) == rendered + opening
        assert (len(last.reply) == 0) == unanswered
        assert (requests[0].arrival, requests[0].continues) == (2.0, 0)


gaps = st.lists(st.lists(st.integers(1, 4), max_size=4), max_size=6)


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), gaps)
def test_interleaving_is_sorting(starts: list[int], gaps: list[list[int]]) -> None:
    sessions: list[list[TraceRequest]] = []
    start = 0
    for number, (after, session) in enumerate(zip(starts, gaps, strict=False)):
        start += after
        arrivals = [start + sum(session[:turn]) for turn in range(len(session))]
        sessions.append(
            [
                TraceRequest(str(number), turn, arrival, Tokens.plain(()), Tokens.plain(()))
                for turn, arrival in enumerate(arrivals)
            ]
        )
    begun = [Session(requests[0].arrival, iter(requests)) for requests in sessions if requests]
    every = [request for requests in sessions for request in requests]
    expected = sorted(every, key=lambda request: (request.arrival, int(request.session_id)))
    assert list(interleave(begun)) == expected
