"""Traces that hold tokens or hashes of them, and how a format is recognised."""

import json
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sglang_marconi.traces.formats import FORMATS, TraceError, TraceFileError, read_trace
from sglang_marconi.traces.requests import TraceRequest


def incremental(session: int | str, turn: int, **changes: object) -> dict[str, object]:
    fields = {"session_id": session, "turn_id": turn, "ts": 1.5}
    return {**fields, "new_tokens": [3, 4], "output_tokens": [5], **changes}


def artifact(session: int | str, turn: int, **changes: object) -> dict[str, object]:
    fields = {"session_id": session, "turn_id": turn, "ts": 1.5}
    return {**fields, "input_tokens": [3, 4], "output_tokens": [5], **changes}


def mooncake(*hashes: int, **changes: object) -> dict[str, object]:
    fields = {"timestamp": 1500, "input_length": 512 * len(hashes), "output_length": 2}
    return {**fields, "hash_ids": hashes, **changes}


def write(folder: Path, *records: object) -> Path:
    """Records as lines; a string is a line as it is."""
    file = folder / "trace"
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def ids(request: TraceRequest) -> list[int]:
    """A prompt of plain token ids."""
    tokens = request.prompt.expand()
    assert all(place == 0 for _, place in tokens)
    return [number for number, _ in tokens]


class Seen(NamedTuple):
    """A request, comparable."""

    session_id: str
    turn: int
    arrival: float
    prompt: list[int]
    reply: list[int]
    continues: int


def seen(file: Path) -> list[Seen]:
    return [
        Seen(r.session_id, r.turn, r.arrival, ids(r), r.reply.ids.tolist(), r.continues)
        for r in read_trace(file)
    ]


class TestIncremental:
    def test_a_prompt_is_the_session_before_and_what_is_new(self, tmp_path: Path) -> None:
        file = write(
            tmp_path,
            incremental(0, 0),
            incremental("b", 0, new_tokens=[9]),
            incremental(0, 1, ts=2, new_tokens=[6], output_tokens=[7, 8]),
            incremental(0, 2, new_tokens=[]),
        )
        assert seen(file) == [
            Seen("0", 0, 1.5, [3, 4], [5], 0),
            Seen("b", 0, 1.5, [9], [5], 0),
            Seen("0", 1, 2.0, [3, 4, 5, 6], [7, 8], 3),
            Seen("0", 2, 1.5, [3, 4, 5, 6, 7, 8], [5], 6),
        ]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("{", "truncated"),
            ("", "truncated"),
            ("[]", "Expected `object`"),
            ({"session_id": 0, "turn_id": 1}, "missing required field `ts`"),
            (incremental(0, 1, ts="soon"), r"Expected `float`, got `str` - at `\$.ts`"),
            (incremental(0, 1, new_tokens=[1, -1]), r">= 0 - at `\$.new_tokens\[1\]`"),
            (incremental(0, 1, new_tokens=[2**63]), r"at `\$.new_tokens\[0\]`"),
            (incremental(0, 1, new_tokens=[1.5]), "Expected `int`, got `float`"),
            (incremental(0, 1, output_tokens=[]), "output_tokens is empty"),
            (incremental(0, 2), "session 0 continues with turn 2, expected 1"),
            (incremental(1, 1), "session 1 continues with turn 1, expected 0"),
        ],
    )
    def test_a_broken_line_is_named(self, tmp_path: Path, line: object, reason: str) -> None:
        file = write(tmp_path, incremental(0, 0), line)
        with pytest.raises(TraceError, match=reason) as raised:
            list(read_trace(file))
        assert str(raised.value).startswith(f"{file}:2: ")
        assert (raised.value.path, raised.value.line) == (file, 2)
        assert str(raised.value).endswith(raised.value.reason)

    def test_bytes_that_are_not_utf8_are_a_broken_line(self, tmp_path: Path) -> None:
        file = write(tmp_path, incremental("x", 0))
        file.write_bytes(file.read_bytes().replace(b'"x"', b'"\xff"'))
        with pytest.raises(TraceError, match=":1: "):
            list(read_trace(file))

    def test_reading_goes_on_after_a_broken_line(self, tmp_path: Path) -> None:
        file = write(
            tmp_path,
            incremental("a", 0),
            incremental("b", 0),
            "broken",
            incremental("a", 2),
            incremental("b", 1),
            incremental("a", 3),
            incremental("a", 1),
        )
        errors: list[TraceError] = []
        requests = list(read_trace(file, on_bad=errors.append))
        assert [(r.session_id, r.turn) for r in requests] == [
            ("a", 0),
            ("b", 0),
            ("b", 1),
            ("a", 1),
        ]
        assert [error.line for error in errors] == [3, 4, 6]
        assert "expected 1" in errors[1].reason
        assert "expected 1" in errors[2].reason


class TestMooncake:
    def test_a_block_is_512_tokens_and_the_last_is_cut(self, tmp_path: Path) -> None:
        cut = mooncake(7, 8, input_length=600, output_length=1000)
        file = write(tmp_path, cut, mooncake(7, 9, 8))
        first, second = read_trace(file)
        whole = [(7, place) for place in range(512)]
        assert first.prompt.expand() == whole + [(8, place) for place in range(88)]
        assert len(second.prompt) == 1536
        assert first.prompt.common_prefix(second.prompt) == 512

    def test_a_cut_block_is_the_beginning_of_the_whole_one(self, tmp_path: Path) -> None:
        file = write(tmp_path, mooncake(7, 8, input_length=600), mooncake(7, 8))
        first, second = read_trace(file)
        assert first.prompt.common_prefix(second.prompt) == 600

    def test_requests_are_sessions_of_their_own(self, tmp_path: Path) -> None:
        file = write(tmp_path, mooncake(0), mooncake(0, 1, timestamp=2001))
        first, second = read_trace(file)
        assert [(r.turn, r.arrival, r.continues) for r in (first, second)] == [
            (0, 1.5, 0),
            (0, 2.001, 0),
        ]
        assert first.session_id != second.session_id

    def test_a_reply_that_no_prompt_has_occurs_nowhere_else(self, tmp_path: Path) -> None:
        records = [mooncake(0, 1), mooncake(1), mooncake(2, output_length=3)]
        requests = list(read_trace(write(tmp_path, *records)))
        assert [len(r.reply) for r in requests] == [2, 2, 3]
        replies = [number for r in requests for number in r.reply.ids.tolist()]
        assert len(replies) == len(set(replies)) == 3
        assert not set(replies) & {0, 1, 2}

    def test_a_reply_may_be_empty(self, tmp_path: Path) -> None:
        [request] = read_trace(write(tmp_path, mooncake(0, output_length=0)))
        assert request.reply.expand() == []

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (mooncake(1, 2, input_length=512), "2 blocks of 512 tokens do not make 512 tokens"),
            (mooncake(1, input_length=513), "1 blocks of 512 tokens do not make 513 tokens"),
            (mooncake(-1), "hash_ids"),
            (mooncake(2**63), "hash_ids"),
            (mooncake(input_length=0), "input_length"),
            (mooncake(1, output_length=-1), "output_length"),
            ({"hash_ids": [1]}, "missing required field `timestamp`"),
        ],
    )
    def test_a_broken_line_is_named_and_may_be_left_out(
        self, tmp_path: Path, line: object, reason: str
    ) -> None:
        file = write(tmp_path, mooncake(0), line, mooncake(0, 1))
        with pytest.raises(TraceError, match=reason):
            list(read_trace(file))
        errors: list[TraceError] = []
        assert [len(r.prompt) for r in read_trace(file, on_bad=errors.append)] == [512, 1024]
        assert [error.line for error in errors] == [2]


class TestArtifact:
    def test_a_prompt_is_what_the_line_holds(self, tmp_path: Path) -> None:
        file = write(
            tmp_path,
            artifact(0, 0),
            artifact("b", 0, input_tokens=[3, 4, 5, 6]),
            artifact(0, 1, ts=2, input_tokens=[3, 4, 5, 6], output_tokens=[7]),
        )
        assert seen(file) == [
            Seen("0", 0, 1.5, [3, 4], [5], 0),
            Seen("b", 0, 1.5, [3, 4, 5, 6], [5], 0),
            Seen("0", 1, 2.0, [3, 4, 5, 6], [7], 3),
        ]

    @pytest.mark.parametrize(
        ("prompt", "continues"),
        [
            ([3, 4, 5], 3),
            ([3, 4, 5, 6], 3),
            ([3, 4], 0),
            ([3, 4, 6, 5], 0),
            ([4, 3, 4, 5], 0),
            ([], 0),
        ],
    )
    def test_a_turn_continues_only_all_of_the_one_before(
        self, tmp_path: Path, prompt: list[int], continues: int
    ) -> None:
        file = write(tmp_path, artifact(0, 0), artifact(0, 1, input_tokens=prompt))
        assert [request.continues for request in read_trace(file)] == [0, continues]

    def test_a_missing_turn_breaks_none_after_it(self, tmp_path: Path) -> None:
        broken = artifact(0, 1, input_tokens=None)
        file = write(tmp_path, artifact(0, 0), broken, artifact(0, 2, input_tokens=[3, 4, 5, 6]))
        with pytest.raises(TraceError, match="input_tokens"):
            list(read_trace(file))
        errors: list[TraceError] = []
        requests = list(read_trace(file, on_bad=errors.append))
        assert [(r.turn, r.continues) for r in requests] == [(0, 0), (2, 3)]
        assert [error.line for error in errors] == [2]


turns = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.lists(st.integers(0, 9), max_size=4),
        st.lists(st.integers(0, 9), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=12,
)


@given(turns)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_incremental_and_the_whole_form_of_a_trace_are_the_same(
    tmp_path: Path, turns: list[tuple[str, list[int], list[int]]]
) -> None:
    earlier: dict[str, list[list[int]]] = {}
    short, whole = [], []
    for session, new, reply in turns:
        before = earlier.setdefault(session, [])
        prompt = list(accumulate([*before, new]))[-1]
        turn = len(before) // 2
        short.append(incremental(session, turn, new_tokens=new, output_tokens=reply))
        whole.append(artifact(session, turn, input_tokens=prompt, output_tokens=reply))
        before += [new, reply]
    assert seen(write(tmp_path, *short)) == seen(write(tmp_path, *whole))


class TestRecognition:
    @pytest.mark.parametrize("name", ["trace.txt", "mooncake.csv", "artifact.jsonl", "sharegpt"])
    def test_the_name_of_a_file_does_not_matter(self, tmp_path: Path, name: str) -> None:
        file = write(tmp_path, incremental(0, 0)).rename(tmp_path / name)
        assert [ids(request) for request in read_trace(file)] == [[3, 4]]

    def test_formats_with_like_fields_are_told_apart(self, tmp_path: Path) -> None:
        with_mooncake_fields = incremental(0, 0, timestamp=0, input_length=1, output_length=1)
        with_artifact_fields = artifact(0, 0, num_input_tokens=2, num_output_tokens=1)
        for record in (with_mooncake_fields, with_artifact_fields):
            assert [ids(request) for request in read_trace(write(tmp_path, record))] == [[3, 4]]

    def test_a_first_record_that_lacks_a_field_is_broken_not_unknown(self, tmp_path: Path) -> None:
        record = incremental(0, 0)
        del record["ts"]
        with pytest.raises(TraceError, match=r":1: .*missing required field `ts`"):
            list(read_trace(write(tmp_path, record)))

    def test_the_format_is_known_by_the_first_line_that_is_whole(self, tmp_path: Path) -> None:
        file = write(tmp_path, '{"new_', "[1]", incremental(0, 0))
        with pytest.raises(TraceError, match=":1: "):
            list(read_trace(file))
        errors: list[TraceError] = []
        assert [ids(r) for r in read_trace(file, on_bad=errors.append)] == [[3, 4]]
        assert [error.line for error in errors] == [1, 2]

    def test_a_json_array_of_records_is_read_as_lines_are(self, tmp_path: Path) -> None:
        file = write(tmp_path, json.dumps([incremental(0, 0), 3, incremental(0, 1)], indent=1))
        errors: list[TraceError] = []
        assert [ids(r) for r in read_trace(file, on_bad=errors.append)] == [
            [3, 4],
            [3, 4, 5, 3, 4],
        ]
        assert [error.line for error in errors] == [None]
        assert str(errors[0]).startswith(f"{file}: item 1: Expected `object`")

    def test_an_unknown_format_is_named_with_those_known(self, tmp_path: Path) -> None:
        file = write(tmp_path, {"prompt": "hello", "seconds": 3})
        with pytest.raises(TraceFileError, match="the fields prompt, seconds;") as raised:
            read_trace(file, on_bad=lambda error: None)
        assert str(file) in str(raised.value)
        for known in FORMATS:
            assert known.description in str(raised.value)

    @pytest.mark.parametrize("text", ["time,user\n1,2\n", "3\n", "[]", "[1, 2]", "\x1f\x8b\x08"])
    def test_a_file_without_an_object_is_of_no_known_format(
        self, tmp_path: Path, text: str
    ) -> None:
        file = tmp_path / "trace.jsonl"
        file.write_text(text)
        with pytest.raises(TraceFileError, match="no JSON object; known are") as raised:
            read_trace(file)
        assert str(file) in str(raised.value)

    @pytest.mark.parametrize("text", ["", "\n", " \n\n"])
    def test_an_empty_file_is_said_to_be_empty(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "trace.jsonl"
        file.write_text(text)
        with pytest.raises(TraceFileError, match=r"trace.jsonl: the file is empty"):
            read_trace(file)

    def test_an_array_cut_short_is_said_to_be(self, tmp_path: Path) -> None:
        file = write(tmp_path, '[{"conversations": []},')
        with pytest.raises(TraceFileError, match="not a JSON array: Input data was truncated"):
            read_trace(file)

    def test_a_file_that_is_not_there_is_said_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_trace(tmp_path / "trace.jsonl")


class TestLimit:
    records = (incremental("a", 0), incremental("b", 0), incremental("a", 1))

    @pytest.mark.parametrize(("limit", "count"), [(None, 3), (0, 0), (2, 2), (3, 3), (9, 3)])
    def test_takes_the_first_requests(self, tmp_path: Path, limit: int | None, count: int) -> None:
        requests = list(read_trace(write(tmp_path, *self.records), limit=limit))
        assert [r.session_id for r in requests] == ["a", "b", "a"][:count]

    def test_lines_beyond_it_are_not_read(self, tmp_path: Path) -> None:
        file = write(tmp_path, *self.records, "broken")
        assert len(list(read_trace(file, limit=3))) == 3
        with pytest.raises(TraceError):
            list(read_trace(file, limit=4))

    def test_broken_lines_do_not_count(self, tmp_path: Path) -> None:
        file = write(tmp_path, self.records[0], "broken", *self.records[1:])
        errors: list[TraceError] = []
        assert len(list(read_trace(file, limit=2, on_bad=errors.append))) == 2
        assert len(errors) == 1

    def test_requests_come_before_the_file_is_read_to_its_end(self, tmp_path: Path) -> None:
        requests: Iterator[TraceRequest] = read_trace(write(tmp_path, *self.records, "broken"))
        assert ids(next(requests)) == [3, 4]
