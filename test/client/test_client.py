import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from sglang_marconi.client.server import ReplayError, replay
from sglang_marconi.records import RequestRecord
from sglang_marconi.traces.requests import ChatRequest, Message, Request, TraceRequest
from sglang_marconi.traces.tokens import Tokens
from support.fake_server import FakeServer, fake_server

VOCABULARY = range(100)


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with fake_server() as server:
        yield server


def drive(fake: FakeServer, requests: Sequence[Request], **pace: Any) -> list[RequestRecord]:
    pace = pace or {"concurrency": 1}
    return asyncio.run(replay(fake.url, requests, trace="made", vocabulary=VOCABULARY, **pace))


def trace_turn(
    session: str,
    turn: int,
    *prompt: int,
    reply: int = 2,
    continues: int = 0,
    arrival: float = 0.0,
) -> TraceRequest:
    plain = Tokens.plain
    return TraceRequest(session, turn, arrival, plain(prompt), plain([7] * reply), continues)


def chat_turn(session: str, turn: int, text: str) -> ChatRequest:
    return ChatRequest(session, turn, 0.0, (Message("user", text),), 2)


def end(record: RequestRecord, output_tokens: int = 2) -> float:
    """When the last token came."""
    assert record.ttft is not None
    return record.arrival + record.ttft + (record.tpot or 0.0) * (output_tokens - 1)


def test_a_turn_continues_what_the_server_replied(fake: FakeServer) -> None:
    stream = [
        trace_turn("a", 0, 1, 2, 3),
        trace_turn("b", 0, 9),
        trace_turn("a", 1, 1, 2, 3, 7, 7, 4, 5, continues=5),
        trace_turn("a", 2, 1, 2, 3, 7, 7, 4, 5, 7, 7, 6, continues=9),
    ]
    records = drive(fake, stream)
    second = [1, 2, 3, 1000, 1001, 4, 5]
    assert [body["prompt"] for body in fake.bodies] == [
        [1, 2, 3],
        [9],
        second,
        [*second, 1000, 1001, 6],
    ]
    assert [(r.session_id, r.turn) for r in records] == [("a", 0), ("b", 0), ("a", 1), ("a", 2)]
    assert [r.prompt_tokens for r in records] == [3, 1, 7, 10]
    assert [r.hit_tokens for r in records] == [1, 0, 3, 5]
    assert {(r.trace, r.policy, r.model, r.budget_bytes) for r in records} == {
        ("made", "server", "tiny", None)
    }


def test_a_turn_that_does_not_continue_its_session_is_sent_as_recorded(fake: FakeServer) -> None:
    drive(fake, [trace_turn("a", 0, 1, 2), trace_turn("a", 1, 1, 2, 7, 4)])
    assert fake.bodies[1]["prompt"] == [1, 2, 7, 4]


def test_a_turn_whose_earlier_ones_are_missing_is_sent_as_recorded(fake: FakeServer) -> None:
    drive(fake, [trace_turn("a", 3, 1, 2, 7, 7, 4, continues=4)])
    assert fake.bodies[0]["prompt"] == [1, 2, 7, 7, 4]


def test_tokens_are_mapped_into_the_vocabulary(fake: FakeServer) -> None:
    block = Tokens.blocks([5], 3, 3)
    drive(fake, [TraceRequest("a", 0, 0.0, Tokens.plain([101, 1]) + block, block)])
    first, second, *run = fake.bodies[0]["prompt"]
    assert (first, second) == (1, 1)
    assert len(run) == 3
    assert set(run) <= set(VOCABULARY)


def test_replies_have_the_recorded_length(fake: FakeServer) -> None:
    drive(fake, [trace_turn("a", 0, 1, reply=5), trace_turn("b", 0, 1, reply=0)])
    body, of_nothing = fake.bodies
    assert body["max_tokens"] == 5
    assert of_nothing["max_tokens"] == 1
    assert body["ignore_eos"] is True
    assert body["temperature"] == 0
    assert body["stream_options"] == {"include_usage": True}


def test_times_are_those_of_the_stream(fake: FakeServer) -> None:
    one, many = drive(fake, [trace_turn("a", 0, 1, reply=1), trace_turn("b", 0, 1, reply=40)])
    # The fake server takes 20 ms to the first token and 2 ms from one to the next.
    assert one.ttft is not None and one.ttft >= 0.02
    assert one.tpot is None
    assert many.tpot is not None and 0.002 <= many.tpot < 0.02
    assert 0 <= one.arrival < one.arrival + one.ttft <= many.arrival


def test_chat_turns_grow_by_what_the_server_replied(fake: FakeServer) -> None:
    records = drive(fake, [chat_turn("a", 0, "hello"), chat_turn("a", 1, "more")])
    assert fake.bodies[1]["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": " w0 w1"},
        {"role": "user", "content": "more"},
    ]
    # The first chunk of a chat has a role and no token.
    assert all(record.ttft is not None and record.ttft >= 0.02 for record in records)


def test_concurrency_is_reached_and_kept_and_turns_stay_in_order(fake: FakeServer) -> None:
    stream = [trace_turn(session, turn, turn) for turn in range(3) for session in "abcdef"]
    records = drive(fake, stream, concurrency=4)
    assert fake.most_running == 4
    turns = defaultdict(list)
    for record in records:
        turns[record.session_id].append(record)
    for session in turns.values():
        assert [record.turn for record in session] == [0, 1, 2]
        assert all(end(earlier) <= later.arrival for earlier, later in pairwise(session))


def test_a_lone_session_runs_one_turn_at_a_time(fake: FakeServer) -> None:
    drive(fake, [trace_turn("a", turn, turn) for turn in range(4)], concurrency=4)
    assert fake.most_running == 1


def test_each_record_is_reported_as_it_ends(fake: FakeServer) -> None:
    seen: list[RequestRecord] = []
    stream = [trace_turn("a", 0, 1), trace_turn("b", 0, 2)]
    records = drive(fake, stream, concurrency=1, on_record=seen.append)
    assert seen == records


def test_a_failed_request_is_named_and_ends_the_run(fake: FakeServer) -> None:
    fake.fails_after = 1
    stream = [trace_turn("a", turn, turn) for turn in range(4)]
    with pytest.raises(ReplayError, match=r"session a, turn 1: .*the prompt is too long"):
        drive(fake, stream, concurrency=2)
    assert len(fake.bodies) == 2


def test_a_server_that_does_not_report_reuse_is_an_error(fake: FakeServer) -> None:
    fake.cache_report = False
    with pytest.raises(ReplayError, match="--enable-cache-report"):
        drive(fake, [trace_turn("a", 0, 1)])


def test_requests_are_sent_at_their_arrival_divided_by_the_speed(fake: FakeServer) -> None:
    arrivals = (100.0, 100.0, 100.6, 101.2)
    stream = [trace_turn(str(n), 0, n, arrival=at) for n, at in enumerate(arrivals)]
    records = drive(fake, stream, speed=4.0)
    assert [record.session_id for record in records] == ["0", "1", "2", "3"]
    for record, due in zip(records, (0.0, 0.0, 0.15, 0.3), strict=True):
        assert due <= record.arrival < due + 0.1


def test_at_a_speed_nothing_but_its_own_session_holds_a_request_up(fake: FakeServer) -> None:
    stream = [trace_turn(session, turn, turn, reply=20) for turn in (0, 1) for session in "abcdef"]
    records = drive(fake, stream, speed=1.0)
    assert fake.most_running == 6
    for session in "abcdef":
        first, second = (record for record in records if record.session_id == session)
        assert (first.turn, second.turn) == (0, 1)
        assert end(first, 20) <= second.arrival


def test_a_failed_request_at_a_speed_drops_those_to_come(fake: FakeServer) -> None:
    fake.fails_after = 1
    stream = [trace_turn(str(n), 0, n, arrival=n / 10) for n in range(4)]
    with pytest.raises(ReplayError, match=r"session 1, turn 0: .*the prompt is too long"):
        drive(fake, stream, speed=1.0)
    assert len(fake.bodies) == 2


@pytest.mark.parametrize("pace", [{"concurrency": None}, {"concurrency": 1, "speed": 1.0}])
def test_a_pace_is_either_a_concurrency_or_a_speed(fake: FakeServer, pace: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either a concurrency or a speed"):
        drive(fake, [trace_turn("a", 0, 1)], **pace)
    assert fake.bodies == []


def test_no_server_is_an_error_that_names_it() -> None:
    with pytest.raises(ReplayError, match=r"http://127\.0\.0\.1:9: Connection error"):
        asyncio.run(replay("http://127.0.0.1:9", [], trace="made", concurrency=1))
