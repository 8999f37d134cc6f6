"""What was replied in a trace of block hashes is read out of later prompts."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sglang_marconi.traces.formats import TraceError, TraceFileError, read_trace
from sglang_marconi.traces.requests import TraceRequest

BLOCK = 512


def request(prompt: int, reply: int, *hashes: int) -> dict[str, object]:
    lengths = {"input_length": prompt, "output_length": reply}
    return {"timestamp": 1500, **lengths, "hash_ids": hashes}


def read(folder: Path, *records: object) -> list[TraceRequest]:
    """What is read of records as lines; a string is a line as it is."""
    file = folder / "trace"
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    file.write_text("".join(f"{line}\n" for line in lines))
    return list(read_trace(file, on_bad=lambda error: None))


def shared(one: TraceRequest, other: TraceRequest) -> int:
    """How many tokens a prompt has in common with an earlier prompt and reply."""
    return (one.prompt + one.reply).common_prefix(other.prompt)


def test_a_reply_is_what_a_later_prompt_has_there(tmp_path: Path) -> None:
    first, second = read(tmp_path, request(600, 200, 1, 2), request(1300, 9, 1, 3, 4))
    assert shared(first, second) == 800
    assert (len(first.prompt), len(first.reply)) == (600, 200)
    assert (len(second.prompt), len(second.reply)) == (1300, 9)
    assert first.prompt.common_prefix(second.prompt) == 600


def test_a_reply_may_go_over_many_blocks_and_end_with_one(tmp_path: Path) -> None:
    first, second = read(tmp_path, request(600, 1448, 1, 2), request(2048, 1, 1, 3, 4, 5))
    assert shared(first, second) == 2048
    assert len(first.reply) == 1448


def test_a_prompt_may_end_with_a_block(tmp_path: Path) -> None:
    first, second = read(tmp_path, request(512, 30, 1), request(600, 9, 1, 3))
    assert shared(first, second) == 542


def test_without_a_reply_the_tail_is_known(tmp_path: Path) -> None:
    first, second = read(tmp_path, request(600, 0, 1, 2), request(1024, 1, 1, 3))
    assert shared(first, second) == 600
    assert len(first.reply) == 0


def test_a_tail_that_is_taken_may_be_one_that_was(tmp_path: Path) -> None:
    first, second, third = read(
        tmp_path, request(600, 10, 1, 2), request(700, 20, 1, 3), request(2000, 1, 1, 4, 5, 6)
    )
    assert shared(first, second) == 610
    assert shared(second, third) == 720
    assert shared(first, third) == 610


def test_the_first_prompt_that_is_long_enough_is_taken(tmp_path: Path) -> None:
    asked = [request(600, 200, 1, 2), request(700, 999, 1, 3), *[request(800, 1, 1, 4)] * 2]
    first, short, long, _ = read(tmp_path, *asked)
    assert shared(first, long) == 800
    assert shared(first, short) == BLOCK


@pytest.mark.parametrize(
    ("later", "common"),
    [
        (request(799, 1, 1, 3), BLOCK),
        (request(1300, 1, 2, 1, 3), 0),
        (request(1300, 1, 9, 9, 9), 0),
    ],
)
def test_what_no_prompt_continues_occurs_nowhere_else(
    tmp_path: Path, later: dict[str, object], common: int
) -> None:
    first, second = read(tmp_path, request(600, 200, 1, 2), later)
    assert first.prompt.ids.tolist() == [1, 2]
    assert shared(first, second) == common
    assert not {*first.reply.ids.tolist()} & {1, 2, 3, 9, *second.reply.ids.tolist()}


def test_all_blocks_have_to_be_the_same_not_the_last_alone(tmp_path: Path) -> None:
    first, second = read(tmp_path, request(1100, 50, 1, 2, 3), request(1300, 1, 9, 2, 4))
    assert first.prompt.ids.tolist() == [1, 2, 3]
    assert shared(first, second) == 0


def test_a_prompt_of_no_full_block_is_continued_by_none(tmp_path: Path) -> None:
    first, _ = read(tmp_path, request(100, 50, 1), request(1024, 1, 1, 2))
    assert first.prompt.ids.tolist() == [1]


def test_broken_records_are_no_later_prompts(tmp_path: Path) -> None:
    broken = ["{", request(2000, 1, 1, 7), request(2000, -1, 1, 7, 8, 9)]
    asked = [request(600, 200, 1, 2), *broken, request(1300, 1, 1, 3, 4)]
    first, second = read(tmp_path, *asked)
    assert (first.session_id, second.session_id) == ("1", "5")
    assert shared(first, second) == 800


def test_a_broken_record_beyond_the_limit_is_none_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    asked = [request(600, 200, 1, 2), request(1300, 1, 1, 3, 4)]
    file.write_text("\n".join(map(json.dumps, asked)) + "\n{\n")
    first, second = read_trace(file, limit=2)
    assert shared(first, second) == 800
    with pytest.raises(TraceError, match=":3: "):
        list(read_trace(file))


def test_a_limit_does_not_change_what_comes_before_it(tmp_path: Path) -> None:
    read(tmp_path, request(600, 200, 1, 2), request(1300, 1, 1, 3, 4))
    [whole, _] = read_trace(tmp_path / "trace")
    [alone] = read_trace(tmp_path / "trace", limit=1)
    assert whole.reply.expand() == alone.reply.expand()


def test_a_cut_gzip_is_said_to_be(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(request(600, 200, n, n + 1)) for n in range(1000))
    (tmp_path / "trace").write_bytes(gzip.compress(lines.encode())[:-9])
    with pytest.raises(TraceFileError, match="not a whole gzip file"):
        next(read_trace(tmp_path / "trace"))


lengths = st.tuples(st.integers(1, 4 * BLOCK), st.integers(0, 2 * BLOCK))
paths = st.lists(st.integers(0, 1), min_size=4, max_size=4)


@given(st.lists(st.tuples(lengths, paths), min_size=1, max_size=9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_replies_are_those_of_a_search_for_the_first_continuation(
    tmp_path: Path, drawn: list[tuple[tuple[int, int], list[int]]]
) -> None:
    asked = []
    for number, ((prompt, reply), path) in enumerate(drawn):
        # A full block's hash says how it was come to; that of a tail is its own.
        full, tail = divmod(prompt, BLOCK)
        blocks = [int("1" + "".join(map(str, path[: depth + 1]))) for depth in range(full)]
        asked.append((prompt, reply, [*blocks, *[1_000_000 + number] * bool(tail)]))
    found = read(tmp_path, *(request(prompt, reply, *hashes) for prompt, reply, hashes in asked))
    for number, (prompt, reply, hashes) in enumerate(asked):
        one, full = found[number], prompt // BLOCK
        assert (len(one.prompt), len(one.reply)) == (prompt, reply)
        later = next(
            (
                found[other]
                for other, (length, _, blocks) in enumerate(asked)
                if other > number and full and length >= prompt + reply
                if blocks[:full] == hashes[:full]
            ),
            None,
        )
        if later is not None:
            assert shared(one, later) == prompt + reply
        elif reply:
            assert all(shared(one, other) <= prompt for other in found)
        # Full blocks are as the file has them.
        for other, (length, _, blocks) in zip(found, asked, strict=True):
            same = next((n for n in range(full) if hashes[: n + 1] != blocks[: n + 1]), full)
            assert one.prompt.common_prefix(other.prompt) >= min(same * BLOCK, length)
