"""States taken inside passes, from the launch of a pass until the tree has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.managers.schedule_batch import FINISH_MATCHED_STR, Req
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cache import places
from sglang_marconi.cache.pass_states import PassStates, Wanted
from sglang_marconi.cost import token_length_cost
from sglang_marconi.events import Reason
from sglang_marconi.forward.layers import parts
from sglang_marconi.forward.plan import PassPlan, current
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.utility import PaperUtility
from support.computed_serving import ComputedServing
from support.stored_serving import CONFIG, StoredServing
from support.tree_serving import SCHEDULER, Flight, states_of
from support.watched_tree import MAMBA, Tokens

PROMPT = tuple(range(1, 11))
COST = token_length_cost(state_bytes=100, kv_bytes_per_token=1)
ROOMY = replace(CONFIG, mamba_cache_size=20)


class Asked(SimpleNamespace):
    """A request that is what it is, as SGLang's are, and not what it has."""

    __hash__ = object.__hash__


class InFlight:
    """Passes over prompts, a step at a time; slots get what the model would compute."""

    def __init__(self, serving: ComputedServing) -> None:
        self.serving = serving
        self.passing: PassStates = states_of(serving.cache)
        # Where each request should leave states.
        self.places: dict[Req, list[int]] = {}
        serving.cache.components[MAMBA].wanted = self.wanted

    def wanted(self, req: Req, *, cutting: bool = False) -> list[Wanted]:
        return [Wanted(tokens, Reason.BRANCH) for tokens in self.places.get(req, [])]

    def begin(self, prompt: Sequence[int], places: Sequence[int]) -> Flight:
        flight = self.serving.begin(prompt)
        assert flight is not None
        self.places[flight.req] = list(places)
        return flight

    def launch(
        self,
        ends: dict[int, Flight],
        *,
        leave_out: str | None = None,
        decline: bool = False,
        in_graph: bool = False,
    ) -> Any:
        """A pass over prompts up to the keys.

        ``leave_out``: a part that no operation writes; ``decline``: as one has said; ``in_graph``:
        data-parallel ranks have agreed on a graph.
        """
        batch: Any = SimpleNamespace(
            forward_mode=ForwardMode.EXTEND,
            reqs=[flight.req for flight in ends.values()],
            decoding_reqs=None,
            prefix_lens=[flight.computed for flight in ends.values()],
            extend_lens=[end - flight.computed for end, flight in ends.items()],
            can_run_dp_prefill_cuda_graph=in_graph,
        )
        flights = list(ends.items())

        def forward(*_: object) -> SimpleNamespace:
            plan = current()
            if plan is not None:
                plan.declined = decline
                self.write(plan, [flight for _, flight in flights], leave_out)
            for end, flight in flights:
                self.serving.compute(flight, flight.prompt[:end])
            return SimpleNamespace()

        self.passing.plan(SCHEDULER, batch)
        result = self.passing.run(forward, None)
        for end, flight in flights:
            flight.computed = end
        return result

    def write(self, plan: PassPlan, flights: list[Flight], leave_out: str | None) -> None:
        for (row, tokens), slot in zip(plan.places, plan.slots, strict=True):
            flight = flights[row]
            self.serving.compute(flight, flight.prompt[: flight.computed + tokens], slot)
        written = {part for part in parts(self.serving.pool) if part[0] != leave_out}
        plan._written.update(written)

    def read(self, result: Any) -> None:
        self.passing.read(None, None, result)

    def checkpoint(self, flight: Flight) -> None:
        self.serving.cache.checkpoint(flight.req, up_to=flight.computed)

    def kept(self) -> dict[Tokens, bool]:
        """By prefix with a state: whether it is the state of that prefix."""
        found = {}
        for node in self.serving.tree._collect_all_nodes():
            value = node.component_data[MAMBA].value
            if value is not None:
                tokens = self.serving.tree.tokens(node)
                found[tokens] = self.holds(value, tokens)
        return found

    def holds(self, value: torch.Tensor, tokens: Tokens) -> bool:
        slot = value
        if isinstance(self.serving, StoredServing):
            slot = self.serving.states.alloc(1)
            self.serving.checkpoints.load_to_active(self.serving.pool.mamba_pool, value, slot)
            self.serving.states.free(slot)
        parts_of = zip(self.serving.slots(int(slot)), self.serving.state_of(tokens), strict=True)
        return all(torch.equal(part, wanted) for part, wanted in parts_of)

    def free(self) -> tuple[int, int]:
        """Slots, and pages of the store if there is one."""
        serving = self.serving
        pages = serving.checkpoints if isinstance(serving, StoredServing) else None
        slots = int(serving.states.available_size())
        return slots, 0 if pages is None else pages.available_size()

    def assert_nothing_is_lost(self) -> None:
        for flight in list(self.serving.flights):
            self.serving.abort(flight)
        self.serving.check()


def shared_slots(cfg: CacheConfig = ROOMY) -> ComputedServing:
    return ComputedServing(cfg, EvictionPolicy(COST, PaperUtility(0.0)), attached=False)


def with_store(cfg: CacheConfig = ROOMY) -> ComputedServing:
    return StoredServing(cfg, PaperUtility(0.0), lossy=None, host=False)


HOMES = pytest.mark.parametrize("home", [shared_slots, with_store])


def prefixes(*lengths: int) -> dict[Tokens, bool]:
    return {PROMPT[:length]: True for length in lengths}


@HOMES
def test_a_prompt_leaves_states_at_all_places_of_one_pass(home: Any) -> None:
    run = InFlight(home())
    flight = run.begin(PROMPT, [1, 4, 10])
    run.read(run.launch({10: flight}))
    assert run.kept() == {}
    run.checkpoint(flight)
    assert run.kept() == prefixes(1, 4, 10)
    run.assert_nothing_is_lost()
    assert run.kept() == prefixes(1, 4, 10)


@HOMES
def test_each_row_has_its_own(home: Any) -> None:
    run = InFlight(home())
    others = [run.begin([20 + row, *PROMPT], [row]) for row in (2, 5)]
    flight = run.begin(PROMPT, [3])
    run.read(run.launch({9: others[0], 11: others[1], 10: flight}))
    for each in (*others, flight):
        run.checkpoint(each)
    kept = run.kept()
    assert all(kept.values())
    # The first one's prompt is not finished: of it, what is above its state is in the tree.
    assert set(kept) == {(22, 1), (25, *PROMPT[:4]), PROMPT[:3]}
    run.assert_nothing_is_lost()


@HOMES
def test_one_of_those_that_share_a_prefix_leaves_its_state(home: Any) -> None:
    """Whether they are in one pass, or the first one has not landed."""
    run = InFlight(home())
    flights = [
        run.begin([*PROMPT[:5], *range(first, first + more)], [3, 5])
        for first, more in ((50, 1), (60, 2), (70, 3))
    ]
    before = run.free()
    first = run.launch({6: flights[0], 7: flights[1]})
    taken = run.free()
    assert taken < before
    assert len(run.passing._of) == 1
    second = run.launch({8: flights[2]})
    assert run.free() == taken
    for result in (first, second):
        run.read(result)
    for flight in flights:
        run.checkpoint(flight)
    assert run.kept() == prefixes(3, 5)
    run.assert_nothing_is_lost()


@HOMES
def test_a_state_that_the_tree_has_is_given_back(home: Any) -> None:
    run = InFlight(home())
    flights = [run.begin([*PROMPT[:5], last], [5]) for last in (50, 51)]
    for flight in flights:
        run.read(run.launch({6: flight}))
        run.checkpoint(flight)
    assert run.kept() == prefixes(5)
    run.assert_nothing_is_lost()


@HOMES
def test_a_state_lands_once_its_pass_was_read(home: Any) -> None:
    """With overlap scheduling a chunk is checkpointed before that, and the next one launched."""
    run = InFlight(home())
    flight = run.begin(PROMPT, [2, 6])
    first = run.launch({4: flight})
    run.checkpoint(flight)
    assert run.kept() == {}
    second = run.launch({8: flight})
    run.read(first)
    run.checkpoint(flight)
    assert run.kept() == prefixes(2)
    third = run.launch({10: flight})
    run.checkpoint(flight)
    assert run.kept() == prefixes(2)
    run.read(second)
    run.read(third)
    run.checkpoint(flight)
    assert run.kept() == prefixes(2, 6)
    run.assert_nothing_is_lost()


@HOMES
@pytest.mark.parametrize("read", [False, True])
def test_an_end_before_it_lands_leaks_nothing(home: Any, read: bool) -> None:
    """As of a request that is aborted, or taken out of the batch for another one."""
    run = InFlight(home())
    flight = run.begin(PROMPT, [2, 6])
    result = run.launch({8: flight})
    if read:
        run.read(result)
    run.serving.abort(flight)
    run.serving.check()
    run.read(result)
    assert run.kept() == {}


@HOMES
def test_no_state_of_a_prompt_that_gave_no_number(home: Any) -> None:
    run = InFlight(home())
    flight = run.begin(PROMPT, [2, 6])
    run.read(run.launch({10: flight}))
    reason: Any = FINISH_MATCHED_STR(matched="NaN happened")
    run.serving.end(flight, reason)
    assert run.kept() == {}
    run.serving.check()


@HOMES
def test_a_pass_that_left_something_out_leaves_no_state(
    home: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run = InFlight(home())
    flight = run.begin(PROMPT, [2, 6])
    run.read(run.launch({8: flight}, leave_out="window 0"))
    run.checkpoint(flight)
    assert run.kept() == {}
    assert not run.passing.inside
    assert "window 0" in caplog.text
    # From now on states are had at ends of passes only.
    run.places[flight.req] = [9, 10]
    run.read(run.launch({10: flight}))
    run.checkpoint(flight)
    assert run.kept() == prefixes(10)
    run.assert_nothing_is_lost()


@pytest.mark.parametrize("strips", [False, True])
def test_a_prompt_whose_reply_leaves_nothing_leaves_a_state(
    strips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of reasoning that is not kept, the next turn resumes inside the prompt."""
    component = shared_slots().cache.components[MAMBA]
    serving = SimpleNamespace(strip_thinking_cache=strips)
    monkeypatch.setattr(places, "get_serving", lambda: serving)
    req: Any = Asked(
        origin_input_ids=range(200),
        mamba_branching_seqlen=70,
        session=None,
        sampling_params=SamplingParams(),
    )
    branch, near_the_end = Wanted(70, Reason.BRANCH), Wanted(192, Reason.TRACKED)
    assert component.wanted(req) == ([branch, near_the_end] if strips else [branch])


def test_lack_of_room_loses_the_least() -> None:
    """The request goes on without the states that would save least."""
    serving = shared_slots(replace(ROOMY, mamba_cache_size=11, max_num_reqs=4))
    run = InFlight(serving)
    flight = run.begin(PROMPT, [1, 6, 8])
    # Three more requests may start, with two slots each: of the ten left, four may be taken.
    for first in (30, 31):
        serving.put([first], state=True)
        serving.hold([first], state=True)
    run.read(run.launch({10: flight}))
    run.checkpoint(flight)
    kept = {tokens: right for tokens, right in run.kept().items() if tokens[0] == 1}
    assert kept == prefixes(6, 8)
    run.assert_nothing_is_lost()


def test_with_a_store_slots_are_free_again_at_once() -> None:
    serving = with_store(replace(ROOMY, mamba_cache_size=2))
    run = InFlight(serving)
    flight = run.begin(PROMPT, [3, 5])
    run.read(run.launch({10: flight}))
    assert serving.states.available_size() == 1
    run.checkpoint(flight)
    # One free slot, one state: without the other one, a hit loses two tokens.
    assert run.kept() == prefixes(3)
    run.assert_nothing_is_lost()


def test_a_request_that_is_kept_from_the_tree_takes_no_slot() -> None:
    run = InFlight(shared_slots())
    flight = run.begin(PROMPT, [3])
    flight.req.skip_radix_cache_insert = True
    free = run.serving.states.available_size()
    run.launch({10: flight})
    assert run.serving.states.available_size() == free


def test_models_without_generation_leave_nothing() -> None:
    """Their passes are run by another way."""
    run = InFlight(shared_slots())
    flight = run.begin(PROMPT, [3])
    free = run.free()
    batch: Any = SimpleNamespace(forward_mode=ForwardMode.EXTEND, reqs=[flight.req])
    run.passing.plan(SimpleNamespace(is_generation=False), batch)
    assert run.free() == free


@HOMES
def test_a_graph_that_ranks_have_agreed_on_leaves_what_is_at_its_end(home: Any) -> None:
    run = InFlight(home())
    flight = run.begin(PROMPT, [3, 10])
    run.read(run.launch({10: flight}, in_graph=True))
    run.checkpoint(flight)
    assert run.kept() == prefixes(10)
    assert run.passing.inside
    run.assert_nothing_is_lost()


@HOMES
def test_a_pass_of_another_kind_says_nothing_of_others(home: Any) -> None:
    run = InFlight(home())
    flight = run.begin(PROMPT, [3, 8])
    run.read(run.launch({6: flight}, leave_out="recurrent state", decline=True))
    run.checkpoint(flight)
    assert run.kept() == {}
    run.read(run.launch({10: flight}))
    run.checkpoint(flight)
    assert run.kept() == prefixes(8)
    run.assert_nothing_is_lost()


@HOMES
def test_an_end_before_an_incomplete_pass_is_read(home: Any) -> None:
    run = InFlight(home())
    flight = run.begin(PROMPT, [2, 6])
    result = run.launch({8: flight}, leave_out="window 0")
    run.serving.abort(flight)
    run.read(result)
    run.serving.check()


def test_what_is_gained_counts_from_the_deepest_state() -> None:
    """Places that a request has resumed behind are no states above others."""
    run = InFlight(shared_slots())
    flight = run.begin(PROMPT, [2, 5])
    run.read(run.launch({6: flight}))
    run.checkpoint(flight)
    gains: list[tuple[int, int]] = []

    def gain(above: int, tokens: int) -> float:
        gains.append((above, tokens))
        return 1.0

    run.serving.cache.components[MAMBA].gain = gain
    run.places[flight.req] = [2, 8]
    run.launch({10: flight})
    assert gains == [(5, 8)]
