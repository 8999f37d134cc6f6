"""Generated workloads: the same for a seed, and of the means they are said to have."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from itertools import pairwise
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
import pytest
from sglang_marconi.traces.generators import (
    Geometric,
    Lmsys,
    LogNormal,
    Shape,
    ShareGpt,
    SweBench,
    generate,
    names,
)
from sglang_marconi.traces.requests import TraceRequest

Sessions = dict[str, list[TraceRequest]]

FIVE = LogNormal(5, 0)
"""Always five."""


def by_session(requests: list[TraceRequest]) -> Sessions:
    sessions: Sessions = {}
    for request in requests:
        sessions.setdefault(request.session_id, []).append(request)
    return sessions


def flat(requests: list[TraceRequest]) -> list[tuple[object, ...]]:
    return [
        (r.session_id, r.turn, r.arrival, r.prompt.ids.tolist(), r.reply.ids.tolist(), r.continues)
        for r in requests
    ]


@pytest.mark.parametrize("name", names())
class TestEveryShape:
    def test_a_seed_makes_the_same_requests(self, name: str) -> None:
        once = flat(generate(name, sessions=6, seed=3))
        assert once == flat(generate(name, sessions=6, seed=3))
        assert once != flat(generate(name, sessions=6, seed=4))

    def test_requests_come_in_order_of_arrival(self, name: str) -> None:
        requests = generate(name, sessions=30, sessions_per_second=2.0)
        arrivals = [request.arrival for request in requests]
        assert arrivals == sorted(arrivals)
        order = [request.session_id for request in requests]
        assert sum(a != b for a, b in pairwise(order)) > len(set(order))

    def test_turns_count_from_0_and_replies_are_not_empty(self, name: str) -> None:
        for session in by_session(generate(name, sessions=30)).values():
            assert [request.turn for request in session] == list(range(len(session)))
            assert all(len(request.reply) > 0 for request in session)

    def test_continues_says_how_much_is_the_turn_before(self, name: str) -> None:
        for session in by_session(generate(name, sessions=20)).values():
            assert session[0].continues == 0
            for before, after in pairwise(session):
                earlier = before.prompt + before.reply
                whole = earlier.common_prefix(after.prompt) == len(earlier)
                assert after.continues == (len(earlier) if whole else 0)

    def test_prompts_are_plain_token_ids(self, name: str) -> None:
        [request, *_] = generate(name, sessions=2)
        assert request.prompt.ends.tolist() == list(range(1, len(request.prompt) + 1))
        assert 0 <= min(request.prompt.ids) <= max(request.prompt.ids) < 32_000

    def test_no_prompt_is_longer_than_allowed(self, name: str) -> None:
        requests = generate(name, sessions=30, max_prompt_tokens=2_500)
        lengths = [len(request.prompt.ids) for request in requests]
        assert 2_000 < max(lengths) <= 2_500

    def test_rates_are_those_set(self, name: str) -> None:
        settings = {"sessions_per_second": 4.0, "mean_turn_gap": 3.0, "max_prompt_tokens": 4_000}
        requests = generate(name, sessions=400, **settings)
        sessions = by_session(requests).values()
        starts = sorted(session[0].arrival for session in sessions)
        assert starts[-1] / len(starts) == pytest.approx(1 / 4, rel=0.15)
        gaps = [b.arrival - a.arrival for session in sessions for a, b in pairwise(session)]
        assert fmean(gaps) == pytest.approx(3.0, rel=0.15)
        assert min(gaps) >= 0


class Means(NamedTuple):
    """Means of a workload; `message` leaves a session's first out."""

    turns: float
    first_message: float
    message: float
    reply: float


def means(requests: list[TraceRequest], system: int) -> Means:
    """By lengths alone, of workloads that drop no message."""
    sessions = by_session(requests).values()
    return Means(
        fmean(len(session) for session in sessions),
        fmean(len(session[0].prompt) - system for session in sessions),
        fmean(
            len(b.prompt) - len(a.prompt) - len(a.reply)
            for session in sessions
            for a, b in pairwise(session)
        ),
        fmean(len(request.reply) for request in requests),
    )


@pytest.mark.parametrize(
    ("name", "sessions", "expected"),
    [
        ("lmsys", 4000, Means(2.0, 69.5, 69.5, 214.5)),
        ("sharegpt", 2000, Means(3.5, 161.31, 161.31, 337.99)),
        ("swebench", 150, Means(20.0, 800.0, 800.0, 150.0)),
    ],
)
def test_means_are_those_imitated(name: str, sessions: int, expected: Means) -> None:
    limit = {"max_prompt_tokens": 200_000, "messages_kept": None}
    system = {"swebench": 2_000}.get(name, 0)
    measured = means(generate(name, sessions=sessions, seed=1, **limit), system)
    assert measured == pytest.approx(expected, rel=0.12)


def test_the_shapes_differ_as_the_workloads_do() -> None:
    mean = {name: fmean(len(r.prompt) for r in generate(name)) for name in names()}
    assert mean["lmsys"] < mean["sharegpt"] < mean["swebench"]


def test_agents_share_a_system_prompt_and_chats_nothing() -> None:
    for name, shared in (("swebench", 2_000), ("lmsys", 0), ("sharegpt", 0)):
        first = [session[0] for session in by_session(generate(name, sessions=8)).values()]
        for a, b in pairwise(first):
            assert shared <= a.prompt.common_prefix(b.prompt) < shared + 3


def test_an_agent_sends_the_newest_messages_and_the_first() -> None:
    eight = LogNormal(8, 0)
    shape = SweBench(
        turns=eight,
        first_message=LogNormal(7, 0),
        message=FIVE,
        reply=FIVE,
        system_tokens=3,
        messages_kept=2,
        sessions=1,
    )
    requests = shape.requests()
    assert [len(r.prompt) for r in requests] == [10, 20, 30, 35, 40, 45, 50, 55]
    assert [r.continues for r in requests] == [0, 15, 25, 0, 0, 0, 0, 0]
    third, fourth = requests[2], requests[3]
    # System prompt, first message and first reply stay; then the second message is gone.
    assert third.prompt.common_prefix(fourth.prompt) == 15
    assert third.prompt.ids[20:].tolist() == fourth.prompt.ids[15:25].tolist()


def test_the_paper_keeps_six_messages() -> None:
    eight = LogNormal(8, 0)
    requests = SweBench(turns=eight, message=FIVE, reply=FIVE, sessions=1).requests()
    assert [request.continues > 0 for request in requests] == [False, *[True] * 6, False]


@pytest.mark.parametrize(
    ("distribution", "expected", "deviation"),
    [
        (Geometric(1.0), 1.0, 0.0),
        (Geometric(4.0), 4.0, 12**0.5),
        (LogNormal(100.0, 0.0), 100.0, 0.0),
        (LogNormal(100.0, 0.5), 100.0, 53.3),
    ],
)
def test_distributions_have_their_mean_and_spread(
    distribution: Geometric | LogNormal, expected: float, deviation: float
) -> None:
    random = np.random.default_rng(0)
    drawn = [distribution.draw(random) for _ in range(20_000)]
    assert min(drawn) >= 1
    assert fmean(drawn) == pytest.approx(expected, rel=0.02)
    assert stdev(drawn) == pytest.approx(deviation, rel=0.05)


def test_a_length_is_never_0() -> None:
    random = np.random.default_rng(0)
    drawn = [LogNormal(0.3, 1.0).draw(random) for _ in range(200)]
    assert min(drawn) == 1


def test_names_are_those_generate_knows() -> None:
    assert names() == ("lmsys", "sharegpt", "swebench")
    with pytest.raises(ValueError, match="no workload is named 'wildchat'; known are lmsys"):
        generate("wildchat")
    with pytest.raises(TypeError, match="session_count"):
        generate("lmsys", session_count=3)


def test_generate_is_the_shape_of_that_name() -> None:
    for name, shape in (("lmsys", Lmsys), ("sharegpt", ShareGpt), ("swebench", SweBench)):
        assert flat(generate(name, sessions=3, seed=5)) == flat(
            shape(sessions=3, seed=5).requests()
        )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Lmsys(sessions_per_second=0), "sessions_per_second is 0, not above 0"),
        (lambda: SweBench(messages_kept=0), "messages_kept is 0, not at least 1"),
    ],
)
def test_settings_that_make_no_workload_are_refused(make: Callable[[], Shape], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Lmsys().seed = 3  # type: ignore[misc]
