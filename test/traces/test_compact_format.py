"""Traces whose turns keep tokens of any earlier turn."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sglang_marconi.traces.formats import TraceError, read_trace


def turn(session: str, turn: int, keep: int, new: list[int], **changes: object) -> dict[str, Any]:
    fields = {"session_id": session, "turn_id": turn, "ts": 1.5, "keep": keep}
    return {**fields, "new_tokens": new, "output_tokens": [50, 51], **changes}


def write(folder: Path, *records: object) -> Path:
    """Records as lines; a string is a line as it is."""
    file = folder / "trace"
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_a_prompt_is_what_is_kept_and_what_is_new(tmp_path: Path) -> None:
    records = [
        turn("a", 0, 0, [1, 2, 3], app="cs"),
        turn("b", 0, 2, [9], base=0),
        turn("a", 1, 5, [4]),
        turn("a", 2, 4, [5], output_tokens=[]),
        turn("b", 1, 5, [], base=2),
    ]
    expected = [
        ("a", 0, [1, 2, 3], 0),
        ("b", 0, [1, 2, 9], 0),
        ("a", 1, [1, 2, 3, 50, 51, 4], 5),
        ("a", 2, [1, 2, 3, 50, 5], 0),
        ("b", 1, [1, 2, 3, 50, 51], 0),
    ]
    for shape in ("lines", "array", "objects over several lines"):
        file = write(tmp_path, *records)
        if shape == "array":
            file.write_text(json.dumps(records))
        elif shape != "lines":
            file.write_text("\n".join(json.dumps(record, indent=1) for record in records))
        requests = list(read_trace(file))
        found = [(r.session_id, r.turn, r.prompt.ids.tolist(), r.continues) for r in requests]
        assert found == expected, shape
        replies = [r.reply.ids.tolist() for r in requests]
        assert replies == [[50, 51], [50, 51], [50, 51], [], [50, 51]]
        assert {r.arrival for r in requests} == {1.5}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "truncated"),
        (turn("a", 1, 6, []), "keeps 6 tokens of an earlier turn, which has 5"),
        (turn("b", 0, 1, []), "keeps 1 tokens of an earlier turn, which has 0"),
        (turn("b", 0, 1, [], base=1), "keeps 1 tokens"),
        (turn("b", 0, 1, [], base=7), "keeps 1 tokens"),
        (turn("a", 1, -1, []), "keep"),
        (turn("a", 1, 1, [], base=-1), "base"),
        (turn("a", 1, 1, [], base="0"), "base"),
        (turn("a", 1, 1, [-1]), "new_tokens"),
    ],
)
def test_a_broken_line_is_named_and_may_be_left_out(
    tmp_path: Path, line: object, reason: str
) -> None:
    first, last = turn("a", 0, 0, [1, 2, 3]), turn("a", 2, 5, [4])
    file = write(tmp_path, first, line, last, turn("c", 0, 1, [], base=1))
    with pytest.raises(TraceError, match=reason) as raised:
        list(read_trace(file))
    assert raised.value.line == 2
    errors: list[TraceError] = []
    requests = list(read_trace(file, on_bad=errors.append))
    assert [r.prompt.ids.tolist() for r in requests] == [[1, 2, 3], [1, 2, 3, 50, 51, 4]]
    # What keeps tokens of the broken line is broken.
    assert [error.line for error in errors] == [2, 4]


drawn = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.none() | st.integers(0, 11),
        st.integers(0, 12),
        st.lists(st.integers(0, 3), max_size=4),
        st.lists(st.integers(0, 3), max_size=3),
    ),
    min_size=1,
    max_size=12,
)


@given(drawn)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_compact_and_the_whole_form_of_a_trace_are_the_same(
    tmp_path: Path, drawn: list[tuple[str, int | None, int, list[int], list[int]]]
) -> None:
    sequences: list[list[int]] = []
    last: dict[str, int] = {}
    short, whole = [], []
    for number, (session, chosen, keep, new, reply) in enumerate(drawn):
        base = None if chosen is None or not number else chosen % number
        earlier = last.get(session) if base is None else base
        kept = [] if earlier is None else sequences[earlier][:keep]
        given = {} if base is None else {"base": base}
        short.append(turn(session, number, len(kept), new, output_tokens=reply, **given))
        fields = {"session_id": session, "turn_id": number, "ts": 1.5, "output_tokens": reply}
        whole.append({**fields, "input_tokens": kept + new})
        sequences.append(kept + new + reply)
        last[session] = number
    found = [
        [
            (r.session_id, r.turn, r.prompt.expand(), r.reply.expand(), r.continues)
            for r in read_trace(write(tmp_path, *records))
        ]
        for records in (short, whole)
    ]
    assert found[0] == found[1]
