"""Any bytes are a trace or a clear error, in memory and time of their size."""

import gzip
import json
import math
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_marconi.traces.formats import TraceError, TraceFileError, read_trace
from sglang_marconi.traces.requests import TraceRequest

_TURN = {"session_id": "a", "turn_id": 0, "ts": 1.5, "output_tokens": [5, 6]}
_CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "f": {"n": 2}}]}
_SAID = [{"role": "user", "content": [{"type": "text", "text": "how are you"}]}, _CALL]
RECORDS: tuple[dict[str, Any], ...] = (
    {**_TURN, "new_tokens": [3, 4]},
    {**_TURN, "input_tokens": [3, 4]},
    {**_TURN, "keep": 0, "new_tokens": [3, 4]},
    {"timestamp": 1500, "input_length": 600, "output_length": 2, "hash_ids": [7, 8]},
    {"messages": [{"role": "user", "content": "how are you"}, _CALL], "ts": 3, "id": 4},
    {"conversations": [{"from": "human", "value": "how"}, {"from": "gpt", "value": "well"}]},
    {"custom_id": "r", "body": {"messages": _SAID, "max_tokens": 9}},
    {"conversation_id": "c", "conversation": _SAID},
    {"task_id": 1, "traj": _SAID},
    {"trajectory": [], "history": _SAID},
)
FIELDS = sorted({field for record in RECORDS for field in record})

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**31 - 2, 2**64 + 2)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
# Of the compact form, with more than one turn to keep tokens of.
kept = st.fixed_dictionaries(
    {"keep": st.integers(0, 9), "base": st.none() | st.integers(0, 4)},
).map(lambda fields: {**RECORDS[2], **fields})
changed = kept | st.builds(
    lambda record, changes, dropped: {
        field: value for field, value in {**record, **changes}.items() if field not in dropped
    },
    st.sampled_from(RECORDS),
    st.dictionaries(st.sampled_from(FIELDS), anything, max_size=3),
    st.sets(st.sampled_from(FIELDS), max_size=1),
)
# Mostly of one format, or all but the first of its records would be broken.
records = st.sampled_from(RECORDS).flatmap(
    lambda first: st.lists(st.just(first) | changed | anything, max_size=6).map(
        lambda others: [first, *others]
    )
)
SHAPES: tuple[Callable[[list[Any]], str], ...] = (
    lambda records: "\n".join(map(json.dumps, records)),
    lambda records: "\ufeff" + "\n\ufeff".join(map(json.dumps, records)),
    lambda records: "\n".join(json.dumps(record, indent=1) for record in records),
    json.dumps,
)
files = st.builds(
    lambda records, shape, finish: finish(shape(records).encode()),
    records | st.lists(changed, max_size=4),
    st.sampled_from(SHAPES),
    st.sampled_from((bytes, gzip.compress)),
)
tables = st.lists(st.text(max_size=8) | st.just("Tokens"), max_size=4).map(
    lambda columns: ",".join(columns).encode()
)
# Where, how many bytes go, and what comes there.
cuts = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 20), st.binary(max_size=8)), min_size=1, max_size=4
)


def survives(file: Path, content: bytes, tokenizer: Path) -> list[TraceRequest]:
    """What is read of the content where broken records are left out."""
    file.write_bytes(content)
    errors: list[TraceError] = []
    for on_bad in (None, errors.append):
        requests: list[TraceRequest] = []
        try:
            requests += islice(read_trace(file, tokenizer=tokenizer, on_bad=on_bad), 1000)
        except TraceFileError as error:
            assert str(error).startswith(str(file))
        except TraceError as error:
            assert on_bad is None
            assert str(error).startswith(str(file))
        for request in requests:
            assert math.isfinite(request.arrival)
            assert 0 <= request.continues <= len(request.prompt)
            for tokens in (request.prompt, request.reply):
                assert (np.diff(tokens.ends, prepend=0) > 0).all()
    return requests


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("garbage") / "trace"


@given(st.binary(max_size=200) | tables, st.sampled_from((b"", b"\x1f\x8b", b"\xef\xbb\xbf")))
@settings(deadline=None)
def test_any_bytes(file: Path, folder: Path, content: bytes, beginning: bytes) -> None:
    survives(file, beginning + content, folder)
    survives(file, gzip.compress(beginning + content), folder)


@given(files)
@settings(deadline=None, max_examples=300)
def test_records_that_are_nearly_as_they_should_be(
    file: Path, folder: Path, content: bytes
) -> None:
    survives(file, content, folder)


@given(files, cuts)
@settings(deadline=None, max_examples=300)
def test_files_that_were_damaged(
    file: Path, folder: Path, content: bytes, cuts: list[tuple[float, int, bytes]]
) -> None:
    for where, removed, added in cuts:
        at = int(where * len(content))
        content = content[:at] + added + content[at + removed :]
    survives(file, content, folder)


_DEEP = b"[" * 100_000 + b"]" * 100_000


def with_field(record: dict[str, Any], field: str, value: bytes) -> bytes:
    return json.dumps({**record, field: "?"}).encode().replace(b'"?"', value)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: min(record.keys() - _TURN))
@pytest.mark.parametrize("field", [*FIELDS, "unknown"])
def test_values_that_are_too_deep_or_too_large(
    file: Path, folder: Path, record: dict[str, Any], field: str
) -> None:
    whole = json.dumps(record).encode()
    for value in (_DEEP, b"9" * 100, b"9" * 10_000, b"-1e308", b"1e308", b"1e999"):
        changed = with_field(record, field, value)
        for lines in ((changed,), (whole, changed), (changed, whole)):
            survives(file, b"\n".join(lines), folder)
            survives(file, b"[" + b",".join(lines) + b"]", folder)


def test_tool_calls_of_any_depth(file: Path, folder: Path) -> None:
    for depth in range(20, 1100, 60):
        nested = b"[" * depth + b"]" * depth
        for field in (b"messages", b"traj"):
            call = b'[{"role": "user", "tool_calls": [{"a": %s}]}]' % nested
            survives(file, b'{"%s": %s}' % (field, call), folder)


def test_space_before_the_first_record(file: Path, folder: Path) -> None:
    for record in RECORDS:
        space = b" " * 10_000
        for content in (json.dumps(record), json.dumps([record])):
            assert survives(file, space + content.encode(), folder)


def large() -> Iterator[bytes]:
    """A megabyte of what might be read in more."""
    size = 1 << 20
    for piece in (b"[", b"{", b"{\n", b'{"a":', b"\n", b" ", b"\0", b"1\n", b"\xff", b'"', b"9"):
        yield piece * (size // len(piece))
    yield b"[" + b"1," * (size // 2) + b"1]"
    yield json.dumps({str(number): 0 for number in range(size // 10)}).encode()
    yield json.dumps({**RECORDS[3], "output_length": 2**31 - 1}).encode() + b" " * size


def test_large_files_take_memory_and_time_of_their_size(file: Path, folder: Path) -> None:
    for content in large():
        start = time.monotonic()
        tracemalloc.start()
        try:
            survives(file, content, folder)
            survives(file, gzip.compress(content, 1), folder)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # The most is an object for each item of an array of one-digit numbers.
        assert peak < 100 << 20, content[:20]
        # Seconds; far more than it takes, for a machine with other load.
        assert time.monotonic() - start < 30, content[:20]
