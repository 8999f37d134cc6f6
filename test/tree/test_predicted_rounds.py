"""Places that are predicted, on SGLang's tree: until when what was learned holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sglang_marconi.events import Reason
from sglang_marconi.policy.prediction import PredictedReuse
from support.waiting_queue import Queue
from support.watched_tree import MAMBA


def experienced() -> Queue:
    """A cache that has seen prompts which were sent twice."""
    queue = Queue(PredictedReuse(), kv_size=2000, mamba_cache_size=60)
    for number in range(8):
        for _ in range(2):
            predicted(queue, number)
    return queue


def predicted(queue: Queue, number: int) -> list[tuple[int, Reason]]:
    """What a prompt of 50 tokens, which no other number has, is to leave."""
    [req] = queue.come([100 * number + at for at in range(50)])
    queue.round()
    found = queue.cache.components[MAMBA].wanted(req)
    queue.read()
    queue.abort(queue.flights[-1])
    return [(each.tokens, each.reason) for each in found]


def test_what_earlier_prompts_show_is_predicted_of_the_next() -> None:
    assert predicted(experienced(), 8) == [(49, Reason.PROMPT)]


@pytest.mark.parametrize(
    "begin_anew", [Queue.flush, lambda queue: queue.policy.revalue(PredictedReuse())]
)
def test_a_flush_or_another_policy_forgets_it(begin_anew: Callable[[Queue], None]) -> None:
    queue = experienced()
    begin_anew(queue)
    assert predicted(queue, 8) == []


def test_one_that_has_replied_already_is_no_new_prompt() -> None:
    """As one that is retracted, if it was not seen when it came."""
    queue = experienced()
    [req] = queue.come([1000 + at for at in range(50)])
    req.output_ids.append(9)
    queue.round()
    assert queue.cache.components[MAMBA].wanted(req) == []
