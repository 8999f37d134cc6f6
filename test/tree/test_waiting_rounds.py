"""Who waits for whose pass, on SGLang's tree: round by round, as its scheduler asks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from sglang.srt.managers.schedule_batch import FINISH_ABORT, Req
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.utility import PaperUtility
from support.waiting_queue import Queue
from support.watched_tree import MAMBA

PREFIX = [1, 2, 3, 4, 5, 6]


def hits(reqs: list[Req]) -> list[int]:
    return [req.kv.cache_protected_len for req in reqs]


def test_others_wait_until_the_state_is_there() -> None:
    queue = Queue()
    first, *others = queue.come(*([*PREFIX, last] for last in (7, 8, 9)))
    assert queue.round() == [first]
    # Launched, not read.
    assert queue.round() == []
    queue.read()
    assert queue.round() == others
    assert hits(others) == [6, 6]


def test_the_last_token_is_computed_by_each() -> None:
    queue = Queue()
    first, *others = queue.come(PREFIX, PREFIX, PREFIX)
    assert queue.round() == [first]
    queue.read()
    assert queue.round() == others
    assert hits(others) == [5, 5]


def test_who_comes_later_waits_for_what_was_planned() -> None:
    queue = Queue()
    first, second = queue.come([*PREFIX, 7], [*PREFIX, 8])
    assert queue.round() == [first]
    # The third shares what the first is to leave; the fourth more than that, which nobody leaves,
    # but the same place suits it; the fifth shares less.
    third, fourth, fifth = queue.come([*PREFIX, 9], [*PREFIX, 7, 7], [1, 2, 3, 9])
    assert queue.round() == [fifth]
    queue.read()
    assert queue.round() == [second, third, fourth]


def test_a_state_of_a_later_chunk() -> None:
    queue = Queue()
    first, second = queue.come([*PREFIX, 7], [*PREFIX, 8])
    assert queue.round(most=3) == [first]
    # It comes once the first chunk is under way; what it shares is in the second.
    [third] = queue.come([*PREFIX[:5], 9])
    assert queue.round() == [first]
    queue.read()
    assert queue.round() == []
    queue.read()
    assert queue.round() == [second, third]
    assert hits([second, third]) == [6, 5]


def test_a_state_that_was_read_before_its_prompt_has_ended() -> None:
    """With overlap a chunk's state is read when its KV cannot enter the tree yet."""
    queue = Queue()
    first, second = queue.come([*PREFIX, 7, 7, 7], [*PREFIX, 8])
    assert queue.round(most=7) == [first]
    assert queue.round() == [first]
    queue.read()
    assert queue.round() == []
    queue.read()
    assert queue.round() == [second]
    assert hits([second]) == [6]


@pytest.mark.parametrize("rounds", [0, 1])
def test_if_it_is_aborted_the_next_one_leads(rounds: int) -> None:
    queue = Queue()
    first, second, third = queue.come(*([*PREFIX, last] for last in (7, 8, 9)))
    queue.round()
    for _ in range(rounds):
        assert queue.round() == []
    first.finished_reason = FINISH_ABORT()
    queue.abort(queue.flights[0])
    assert queue.round() == [second]
    assert queue.round() == []
    queue.read()
    queue.read()
    assert queue.round() == [third]
    assert hits([third]) == [6]


def test_all_go_if_there_is_no_room_for_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    monkeypatch.setattr(queue.cache.components[MAMBA], "room", lambda *_: None)
    first, *others = queue.come(*([*PREFIX, last] for last in (7, 8, 9)))
    assert queue.round() == [first]
    assert queue.round() == others
    # Nor do they wait for each other in vain again; who comes later tries anew.
    late = queue.come([*PREFIX, 7], [*PREFIX, 8])
    assert queue.round() == late[:1]


def test_who_may_not_resume_does_not_wait() -> None:
    queue = Queue()
    [probabilities] = queue.come([*PREFIX, 8], return_logprob=True, logprob_start_len=0)
    [overridden] = queue.come([*PREFIX, 9], positional_embed_overrides=object())
    session = SimpleNamespace(streaming=True)
    [streaming] = queue.come([*PREFIX, 6], session=session)
    [salted] = queue.come([*PREFIX, 5], cache_salt="another")
    queue.waiting.begin(queue)
    for req in (probabilities, overridden, streaming, salted):
        req.full_untruncated_fill_ids = req.origin_input_ids
        req.prefix_len = 0
        assert queue.waiting.places(req, cutting=True) == []
        assert not queue.waiting._waits(req)


def test_who_leaves_nothing_is_not_waited_for() -> None:
    queue = Queue()
    barred, *others = queue.come(*([*PREFIX, last] for last in (7, 8, 9)))
    barred.skip_radix_cache_insert = True
    assert queue.round() == [barred, others[0]]


def test_what_nobody_gains_from_is_not_waited_for() -> None:
    queue = Queue()
    queue.put(PREFIX, state=True)
    reqs = queue.come(*([*PREFIX, last] for last in (7, 8, 9)))
    assert queue.round() == reqs
    assert hits(reqs) == [6, 6, 6]


@pytest.mark.parametrize("valuation", [PredictedReuse, PaperUtility])
def test_what_a_waiting_request_would_use_goes_last(valuation: type[Valuation]) -> None:
    queue = Queue(valuation())
    queue.put(PREFIX, state=True)
    for other in range(20, 24):
        queue.put([other] * 6, state=True)
    [waits] = queue.come([*PREFIX, 7])
    # One round comes and does not get to it.
    queue.waiting.begin(queue)
    queue.waiting.begin(queue)
    assert queue.node(*PREFIX).awaited == 1
    queue.check()
    for _ in range(4):
        queue.evict(states=1)
        assert queue.node(*PREFIX).has_state
    queue.evict(tokens=4 * 6)
    assert queue.node(*PREFIX).has_state
    # All else is gone: it goes as well, rather than that nothing could.
    queue.evict(states=1)
    assert not queue.node(*PREFIX).has_state
    queue.waiting.begin(queue)
    assert queue.round() == [waits]
    assert queue.node(*PREFIX).awaited == 0


def test_the_kv_of_what_a_waiting_request_would_use_goes_last() -> None:
    queue = Queue()
    for first in range(20, 24):
        queue.put([first] * 6, state=True)
    queue.come([20] * 7)
    queue.waiting.begin(queue)
    queue.waiting.begin(queue)
    queue.evict(tokens=3 * 6)
    assert queue.node(*[20] * 6).has_state


def test_if_it_goes_the_state_above_is_awaited() -> None:
    queue = Queue()
    queue.put(PREFIX[:3], state=True)
    queue.put(PREFIX, state=True)
    [waits] = queue.come([*PREFIX, 7])
    queue.waiting.begin(queue)
    queue.waiting.begin(queue)
    above = queue.node(*PREFIX[:3])
    assert above.awaited == 0
    queue.hold(PREFIX[:3], state=True)
    queue.evict(states=1)
    queue.waiting.begin(queue)
    assert above.awaited == 1
    assert queue.round() == [waits]
    assert hits([waits]) == [3]
    assert above.awaited == 0


def test_those_that_come_while_a_round_goes_on() -> None:
    """As those do whose grammar is ready then."""
    queue = Queue()
    queue.come([9] * 3)
    assert len(queue.round(late=[[*PREFIX, last] for last in (7, 8, 9)])) == 2


def test_those_that_go_while_a_round_goes_on() -> None:
    """As where a queue has a limit, and one that comes is put before one that waits."""
    queue = Queue()
    gone, stays = queue.come([9] * 3, [8] * 3)
    queue.waiting.begin(queue)
    queue.waiting_queue.remove(gone)
    [late] = queue.come([7] * 3)
    queue.waiting.look(lambda *_: None, late, queue.cache)
    queue.waiting.begin(queue)
    assert list(queue.waiting._prompts) == [stays, late]


def test_who_comes_back_to_the_queue_that_it_was_in() -> None:
    """As all do that are retracted when the server is paused."""
    queue = Queue()
    [req] = queue.come(PREFIX)
    queue.waiting.begin(queue)
    assert list(queue.waiting._prompts) == [req]
    queue.waiting._leave(req)
    queue.waiting.begin(queue)
    assert list(queue.waiting._prompts) == [req]


def test_who_was_just_admitted_does_not_wait_any_more() -> None:
    queue = Queue()
    [first] = queue.come([9] * 3)
    [admitted] = queue.round(late=[[*PREFIX, 7], [*PREFIX, 8]])[:1]
    assert admitted is first
    assert first not in queue.waiting._prompts


def test_nobody_is_retracted_for_a_request_that_waits() -> None:
    queue = Queue()
    first, second = queue.come([*PREFIX, 7], [*PREFIX, 8])
    assert queue.waiting.preempt(lambda *_: True, None, second)
    assert queue.round() == [first]
    assert not queue.waiting.preempt(lambda *_: True, None, second)


def test_a_state_that_comes_is_awaited_from_then_on() -> None:
    queue = Queue()
    _, *others = queue.come(*([*PREFIX, last] for last in (7, 8, 9)))
    queue.round()
    queue.round()
    queue.read()
    node = queue.node(*PREFIX)
    assert node.has_state and node.awaited == 2
    queue.check()
    # One hangs up.
    queue.waiting_queue.remove(others[0])
    queue.waiting.begin(queue)
    assert node.awaited == 1
    assert queue.round() == others[1:]
    assert node.awaited == 0
    queue.check()


def test_a_state_that_comes_into_an_emptied_tree_is_awaited() -> None:
    queue = Queue()
    queue.come([*PREFIX, 7])
    queue.waiting.begin(queue)
    queue.waiting.begin(queue)
    queue.flush()
    # The batch is full: nobody is admitted.
    queue.waiting.begin(queue)
    queue.put(PREFIX, state=True)
    assert queue.node(*PREFIX).awaited == 1


def test_a_use_is_counted_once_it_is_one() -> None:
    """SGLang matches what waits again and again, under some policies in every round."""
    queue = Queue()
    queue.put(PREFIX, state=True)
    queue.policy.tick()
    node = queue.node(*PREFIX)
    for _ in range(3):
        queue.match([*PREFIX, 7])
    assert node.hits == 0
    queue.come([*PREFIX, 7])
    queue.waiting.begin(queue)
    queue.waiting.begin(queue)
    assert node.hits == 0
    queue.round()
    assert node.hits == 1


def test_an_emptied_tree() -> None:
    queue = Queue()
    queue.put(PREFIX, state=True)
    [waits] = queue.come([*PREFIX, 7])
    queue.waiting.begin(queue)
    queue.waiting.begin(queue)
    queue.flush()
    queue.put([8] * 3, state=True)
    assert queue.round() == [waits]
    assert hits([waits]) == [0]
    # The policy looks at what it was told of.
    queue.put([9] * 3, state=True)
    queue.check()


def test_who_hangs_up_once_the_tree_is_emptied() -> None:
    """What it was about to use is not of the new tree, and can give no slot."""
    queue = Queue()
    queue.put(PREFIX, state=True)
    gone = queue.node(*PREFIX)
    queue.come([*PREFIX, 7])
    queue.waiting.begin(queue)
    queue.waiting.begin(queue)
    assert gone.awaited == 1
    queue.flush()
    queue.waiting_queue.clear()
    queue.waiting.begin(queue)
    assert queue.policy.least_useful_state() is None
    queue.put([9] * 3, state=True)
    queue.check()


def test_where_nobody_waits_nothing_is_kept_of_requests() -> None:
    queue = Queue()
    queue.waiting._holds = False
    for last in (7, 8, 9):
        reqs = queue.come([*PREFIX, last], [*PREFIX, last])
        assert queue.round() == reqs
        queue.read()
    assert not (queue.waiting._added or queue.waiting._promised or queue.waiting._held)
