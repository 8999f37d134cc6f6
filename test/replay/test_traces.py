import json
from pathlib import Path

import pytest
from sglang_marconi.replay.requests import TokenRequest
from sglang_marconi.replay.traces import TraceError, read_token_trace


def turn(session: int | str, turn_id: int, **changes: object) -> str:
    fields = {
        "session_id": session,
        "turn_id": turn_id,
        "ts": 1.5,
        "new_tokens": [3, 4],
        "output_tokens": [5],
    }
    return json.dumps({**fields, **changes})


def write(path: Path, *lines: str) -> Path:
    file = path / "trace.jsonl"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_reads_turns_in_file_order(tmp_path: Path) -> None:
    file = write(tmp_path, turn(0, 0), turn("b", 0), turn(0, 1, ts=2, new_tokens=[]))
    assert read_token_trace(file) == [
        TokenRequest("0", 0, 1.5, (3, 4), (5,)),
        TokenRequest("b", 0, 1.5, (3, 4), (5,)),
        TokenRequest("0", 1, 2.0, (), (5,)),
    ]


def test_lines_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    file = write(tmp_path, turn(0, 0), "broken")
    assert len(read_token_trace(file, limit=1)) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "truncated"),
        ("", "truncated"),
        ("[]", "Expected `object`"),
        (json.dumps({"session_id": 0, "turn_id": 1}), "missing required field `ts`"),
        (turn(0, 1, ts="soon"), r"Expected `float`, got `str` - at `\$.ts`"),
        (turn(0, 1, new_tokens=[1, -1]), r"Expected `int` >= 0 - at `\$.new_tokens\[1\]`"),
        (turn(0, 1, new_tokens=[1.5]), r"Expected `int`, got `float` - at `\$.new_tokens\[0\]`"),
        (turn(0, 1, output_tokens=[]), "output_tokens is empty"),
        (turn(0, 2), "session 0 continues with turn 2, expected 1"),
        (turn(1, 1), "session 1 continues with turn 1, expected 0"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    file = write(tmp_path, turn(0, 0), line)
    with pytest.raises(TraceError, match=reason) as error:
        read_token_trace(file)
    assert str(error.value).startswith(f"{file}:2: ")


def test_bytes_that_are_not_utf8_are_a_broken_line(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_bytes(turn("x", 0).encode().replace(b'"x"', b'"\xff"') + b"\n")
    with pytest.raises(TraceError, match=":1: "):
        read_token_trace(file)
