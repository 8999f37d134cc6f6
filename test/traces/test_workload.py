from collections import defaultdict
from itertools import pairwise

from sglang_marconi.traces.workload import ChatWorkload

SMALL = ChatWorkload(system_prompts=3, sessions_per_prompt=2, turns=4, system_words=50)


def test_a_seed_gives_the_same_requests_and_another_seed_others() -> None:
    assert SMALL.requests() == SMALL.requests()
    assert SMALL.requests() != SMALL._replace(seed=1).requests()


def test_requests_arrive_in_order_and_turns_follow_each_other() -> None:
    requests = SMALL.requests()
    assert len(requests) == 3 * 2 * 4
    assert all(a.arrival <= b.arrival for a, b in pairwise(requests))
    turns = defaultdict(list)
    for request in requests:
        turns[request.session_id].append(request.turn)
    assert list(turns.values()) == [[0, 1, 2, 3]] * 6


def test_sessions_interleave() -> None:
    sessions = [request.session_id for request in SMALL.requests()]
    changes = sum(a != b for a, b in pairwise(sessions))
    assert changes > len(set(sessions))


def test_sessions_share_system_prompts_and_nothing_else() -> None:
    requests = SMALL.requests()
    systems = [r.new_messages[0] for r in requests if r.turn == 0]
    assert {message.role for message in systems} == {"system"}
    assert len(systems) == 6
    assert len(set(systems)) == 3
    assert all(len(message.content.split()) == 50 for message in systems)
    users = [r.new_messages[-1] for r in requests]
    assert {message.role for message in users} == {"user"}
    assert len(set(users)) == len(requests)
    assert all(len(r.new_messages) == (1 if r.turn else 2) for r in requests)
