"""What a file of a trace may be like, whatever its format: compressed, marked, indented."""

import gzip
import json
from pathlib import Path

import pytest
from sglang_marconi.traces.formats import TraceError, TraceFileError, read_trace

MARK = b"\xef\xbb\xbf"


def turn(session: str, turn: int) -> dict[str, object]:
    tokens = {"new_tokens": [3, 4], "output_tokens": [5]}
    return {"session_id": session, "turn_id": turn, "ts": 1.5, **tokens}


TURNS = [turn("a", 0), turn("b", 0), turn("a", 1)]
LINES = [json.dumps(turn).encode() + b"\n" for turn in TURNS]
INDENTED = [json.dumps(turn, indent=2).encode() + b"\n" for turn in TURNS]


def read(file: Path, content: bytes) -> list[tuple[str, int]]:
    """The session and the length of the prompt of each request."""
    file.write_bytes(content)
    return [(r.session_id, len(r.prompt)) for r in read_trace(file)]


def left_out(file: Path, content: bytes) -> tuple[list[str], list[str]]:
    """The sessions of what is read where broken records are left out, and where these are."""
    file.write_bytes(content)
    errors: list[TraceError] = []
    sessions = [r.session_id for r in read_trace(file, on_bad=errors.append)]
    places = [str(error).removeprefix(f"{file}:").split(":")[0].strip() for error in errors]
    return sessions, places


WHOLE = [("a", 2), ("b", 2), ("a", 5)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trace"


SHAPES = {
    "lines": b"".join(LINES),
    "array": json.dumps(TURNS).encode(),
    "indented array": json.dumps(TURNS, indent=1).encode(),
    "objects over several lines": b"".join(INDENTED),
    "the same, apart": b"\n\n".join(INDENTED),
    "the same, as Windows ends lines": b"".join(INDENTED).replace(b"\n", b"\r\n"),
    "the same, with tabs": b"".join(
        json.dumps(turn, indent="\t").encode() + b"\n" for turn in TURNS
    ),
}


@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES)
def test_every_shape_is_read_compressed_and_marked(file: Path, content: bytes) -> None:
    for marked in (content, MARK + content):
        assert read(file, marked) == WHOLE
        assert read(file, gzip.compress(marked)) == WHOLE


def test_files_put_one_after_the_other_are_one(file: Path) -> None:
    assert read(file, b"".join(map(gzip.compress, LINES))) == WHOLE
    assert read(file, b"".join(MARK + line for line in LINES)) == WHOLE
    assert read(file, b"".join(MARK + record for record in INDENTED)) == WHOLE


def test_a_mark_is_none_within_a_record(file: Path) -> None:
    at = LINES[1].index(b":")
    broken = LINES[1][:at] + MARK + LINES[1][at:]
    assert left_out(file, LINES[0] + broken + LINES[2]) == (["a", "a"], ["2"])
    session = b'{"session_id": "' + MARK + LINES[0].removeprefix(b'{"session_id": "')
    assert read(file, session) == [("\ufeffa", 2)]


def test_an_object_over_several_lines_is_broken_alone(file: Path) -> None:
    broken = INDENTED[1].replace(b'"turn_id"', b"turn_id")
    assert left_out(file, INDENTED[0] + broken + INDENTED[2]) == (["a", "a"], ["item 1"])
    cut = INDENTED[1][:-2]
    assert left_out(file, INDENTED[0] + cut) == (["a"], ["item 1"])


def test_a_brace_alone_is_a_broken_line_among_lines(file: Path) -> None:
    assert left_out(file, LINES[0] + b"{\n" + LINES[1]) == (["a", "b"], ["2"])


@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES)
def test_a_damaged_gzip_is_said_to_be(file: Path, content: bytes) -> None:
    whole = gzip.compress(content)
    for damaged in (
        whole[:2],
        whole[:20],
        whole[:-1],
        whole[:12] + b"\xff\xff\xff" + whole[15:],
        whole + b"more",
    ):
        file.write_bytes(damaged)
        with pytest.raises(TraceFileError, match="trace: not a whole gzip file: ") as raised:
            list(read_trace(file, on_bad=lambda error: None))
        assert "\n" not in str(raised.value)


def test_requests_come_before_a_gzip_is_read_to_its_end(file: Path) -> None:
    many = b"".join(json.dumps(turn(str(number), 0)).encode() + b"\n" for number in range(20_000))
    file.write_bytes(gzip.compress(many)[:-1])
    requests = read_trace(file)
    assert next(requests).session_id == "0"
    with pytest.raises(TraceFileError):
        list(requests)


@pytest.mark.parametrize("content", [b"", b"\n", MARK, MARK + b"\n"])
def test_nothing_is_an_empty_file(file: Path, content: bytes) -> None:
    for written in (content, gzip.compress(content)):
        file.write_bytes(written)
        with pytest.raises(TraceFileError, match="trace: the file is empty"):
            read_trace(file)


@pytest.mark.parametrize(
    "header",
    [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
    ],
)
def test_lengths_alone_are_of_no_use(file: Path, header: str) -> None:
    row = ",".join("7" for _ in header.split(","))
    for content in (f"{header}\n{row}\n", f"\ufeff{header}\r\n", header):
        for written in (content.encode(), gzip.compress(content.encode())):
            file.write_bytes(written)
            with pytest.raises(TraceFileError, match="lengths of requests hold no content"):
                read_trace(file)
