"""Who waits for whose pass, on SGLang's tree: round by round, as its scheduler asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.managers.schedule_batch import FINISH_ABORT, Req
from sglang.srt.managers.schedule_policy import AddReqResult
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang_marconi.cost import preset
from sglang_marconi.forward.layers import parts
from sglang_marconi.forward.plan import current
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.utility import PaperUtility
from support.tree_serving import (
    MAMBA,
    SCHEDULER,
    SINGLE_TOKENS,
    Flight,
    Serving,
    states_of,
    with_free_passes,
)

ROOMY = replace(SINGLE_TOKENS, kv_size=400, mamba_cache_size=40, max_num_reqs=8)
COST = with_free_passes(preset("paper-7b"))
PREFIX = [1, 2, 3, 4, 5, 6]


class Queue(Serving):
    """Requests wait in a queue; a pass is launched in one step and read in another."""

    is_generation = True

    def __init__(self, valuation: Valuation | None = None, **sizes: int) -> None:
        policy = EvictionPolicy(COST, PredictedReuse() if valuation is None else valuation)
        super().__init__(replace(ROOMY, **sizes), policy)
        self.policy = policy
        self.waiting_queue: list[Req] = []
        self.chunked_req: Req | None = None
        self.waiting = self.cache.components[MAMBA]._waiting
        self.launched: list[tuple[list[Flight], Any, Any]] = []

    def come(self, *prompts: list[int], **about: Any) -> list[Req]:
        """Requests arrive."""
        reqs = [self.arrive(prompt) for prompt in prompts]
        for req in reqs:
            req.rid = str(len(self.waiting_queue))
            for name, value in about.items():
                setattr(req, name, value)
            self.waiting_queue.append(req)
        return reqs

    def use(self, req: Req) -> None:
        """The hook on the admission says so itself."""

    def round(self, most: int | None = None, late: Sequence[list[int]] = ()) -> list[Req]:
        """One round of admissions, of prompts with at most ``most`` tokens in a pass.

        ``late``: prompts that come when it has begun. Returns who was admitted; their pass is
        launched.
        """
        self.waiting.begin(self)
        self.come(*late)
        flights: list[Flight] = []
        adder: Any = SimpleNamespace(can_run_list=[])

        def add(_adder: Any, req: Req) -> AddReqResult:
            flight = self.begin(list(req.origin_input_ids + req.output_ids), req=req)
            if flight is None:
                return AddReqResult.NO_TOKEN
            whole = len(flight.prompt)
            req.extend_end = whole if most is None else min(whole, flight.computed + most)
            flights.append(flight)
            adder.can_run_list.append(req)
            return AddReqResult.CONTINUE

        def match(_req: Req, _tree: Any, _cow: Any) -> None:
            """Done when it is added."""

        if self.chunked_req is not None:
            [flight] = [each for each in self.flights if each.req is self.chunked_req]
            self.chunked_req.extend_end = len(flight.prompt)
            flights.append(flight)
            adder.can_run_list.append(self.chunked_req)
            self.chunked_req = None
        for req in self.waiting_queue:
            self.waiting.look(match, req, self.cache)
            assert self.waiting.admit(add, adder, req) is AddReqResult.CONTINUE
        admitted: list[Req] = adder.can_run_list
        self.waiting_queue = [req for req in self.waiting_queue if req not in admitted]
        self.chunked_req = next(
            (each.req for each in flights if each.req.extend_end < len(each.prompt)), None
        )
        if flights:
            self.launch(flights)
        return admitted

    def launch(self, flights: list[Flight]) -> None:
        """A pass over what was admitted."""
        passing = states_of(self.cache)
        batch: Any = SimpleNamespace(
            forward_mode=ForwardMode.EXTEND,
            reqs=[flight.req for flight in flights],
            decoding_reqs=None,
            prefix_lens=[flight.computed for flight in flights],
            extend_lens=[flight.req.extend_end - flight.computed for flight in flights],
            can_run_dp_prefill_cuda_graph=False,
        )
        passing.plan(SCHEDULER, batch)

        def forward(*_: object) -> SimpleNamespace:
            plan = current()
            if plan is not None:
                plan._written.update(parts(self.cache.req_to_token_pool))
            return SimpleNamespace()

        self.launched.append((flights, batch, passing.run(forward, None)))
        for flight in flights:
            flight.computed = flight.req.extend_end

    def read(self) -> None:
        """The result of the oldest pass: prompts that it ended give out a token."""
        flights, batch, result = self.launched.pop(0)
        states_of(self.cache).read(None, batch, result)
        ends = [at + more for at, more in zip(batch.prefix_lens, batch.extend_lens, strict=True)]
        for flight, end in zip(flights, ends, strict=True):
            if flight in self.flights and end == len(flight.prompt):
                flight.req.output_ids.append(9)
                self.cache.checkpoint(flight.req, up_to=flight.computed)

    def node(self, *tokens: int) -> PrefixNode:
        return self.tree.prefix(self.tree.node_of(tokens))

    def check(self) -> None:
        """What tree and policy hold is sound."""
        self.cache.sanity_check()


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
        assert queue.waiting.places(req) == []
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
    assert len(queue.round(late=[[*PREFIX, last] for last in (7, 8, 9)])) == 1


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
