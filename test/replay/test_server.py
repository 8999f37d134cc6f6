import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from fake_server import FakeServer, fake_server
from sglang_marconi.replay.records import Record
from sglang_marconi.replay.requests import ChatRequest, Message, Request, TokenRequest
from sglang_marconi.replay.server import ReplayError, replay


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with fake_server() as server:
        yield server


def drive(fake: FakeServer, requests: Sequence[Request], concurrency: int = 1) -> list[Record]:
    return asyncio.run(replay(fake.url, requests, concurrency=concurrency))


def token_turn(session: str, turn: int, *new: int, reply: int = 2) -> TokenRequest:
    return TokenRequest(session, turn, 0.0, new, (7,) * reply)


def chat_turn(session: str, turn: int, text: str) -> ChatRequest:
    return ChatRequest(session, turn, 0.0, (Message("user", text),), 2)


def test_token_turns_grow_by_what_the_server_replied(fake: FakeServer) -> None:
    stream = [token_turn("a", 0, 1, 2, 3), token_turn("b", 0, 9), token_turn("a", 1, 4, 5)]
    records = drive(fake, stream)
    assert [body["prompt"] for body in fake.bodies] == [
        [1, 2, 3],
        [9],
        [1, 2, 3, 1000, 1001, 4, 5],
    ]
    assert [(r.session_id, r.turn) for r in records] == [("a", 0), ("b", 0), ("a", 1)]
    assert [r.prompt_tokens for r in records] == [3, 1, 7]
    assert [r.cached_tokens for r in records] == [1, 0, 3]
    assert [r.output_tokens for r in records] == [2, 2, 2]
    assert all(0.02 <= r.ttft <= r.total for r in records)
    assert records[0].sent < records[1].sent < records[2].sent


def test_token_replies_have_the_recorded_length(fake: FakeServer) -> None:
    drive(fake, [token_turn("a", 0, 1, reply=5)])
    (body,) = fake.bodies
    assert body["max_tokens"] == 5
    assert body["ignore_eos"] is True
    assert body["temperature"] == 0
    assert body["stream_options"] == {"include_usage": True}


def test_chat_turns_grow_by_what_the_server_replied(fake: FakeServer) -> None:
    records = drive(fake, [chat_turn("a", 0, "hello"), chat_turn("a", 1, "more")])
    assert fake.bodies[1]["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": " w0 w1"},
        {"role": "user", "content": "more"},
    ]
    # The first chunk of a chat has a role and no token.
    assert all(record.ttft >= 0.02 for record in records)


def test_concurrency_is_reached_and_kept_and_turns_stay_in_order(fake: FakeServer) -> None:
    stream = [token_turn(session, turn, turn) for turn in range(3) for session in "abcdef"]
    records = drive(fake, stream, concurrency=4)
    assert fake.most_running == 4
    turns = defaultdict(list)
    for record in records:
        turns[record.session_id].append(record)
    for session in turns.values():
        assert [record.turn for record in session] == [0, 1, 2]
        assert all(
            earlier.sent + earlier.total <= later.sent for earlier, later in pairwise(session)
        )


def test_a_lone_session_runs_one_turn_at_a_time(fake: FakeServer) -> None:
    drive(fake, [token_turn("a", turn, turn) for turn in range(4)], concurrency=4)
    assert fake.most_running == 1


def test_each_record_is_reported_as_it_ends(fake: FakeServer) -> None:
    seen: list[Record] = []
    stream = [token_turn("a", 0, 1), token_turn("b", 0, 2)]
    records = asyncio.run(replay(fake.url, stream, concurrency=1, on_record=seen.append))
    assert seen == records


def test_a_failed_request_is_named_and_ends_the_run(fake: FakeServer) -> None:
    fake.fails_after = 1
    stream = [token_turn("a", turn, turn) for turn in range(4)]
    with pytest.raises(ReplayError, match=r"session a, turn 1: .*the prompt is too long"):
        drive(fake, stream, concurrency=2)
    assert len(fake.bodies) == 2


def test_a_server_that_does_not_report_reuse_is_an_error(fake: FakeServer) -> None:
    fake.cache_report = False
    with pytest.raises(ReplayError, match="--enable-cache-report"):
        drive(fake, [token_turn("a", 0, 1)])
