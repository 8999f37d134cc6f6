"""What a request is told of the places that it declares is what the tree has kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sglang_marconi.cache.declared import report
from sglang_marconi.cost import token_length_cost
from sglang_marconi.declare.transport import PARAMETER, WRITTEN
from sglang_marconi.events import Observer, Reason, Stored
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.utility import PaperUtility
from support.computed_serving import ComputedServing
from support.tree_serving import PAGES_OF_FOUR, SINGLE_TOKENS, Flight, with_free_passes
from support.watched_tree import MAMBA

COST = with_free_passes(token_length_cost(state_bytes=100, kv_bytes_per_token=1))
PROMPT = tuple(range(1, 21))


def serving(cfg: Any = SINGLE_TOKENS) -> ComputedServing:
    policy = EvictionPolicy(COST, PaperUtility())
    return ComputedServing(replace(cfg, mamba_cache_size=20), policy, attached=False)


def begin(serving: ComputedServing, prompt: Sequence[int], places: object) -> Flight:
    flight = serving.begin(prompt)
    assert flight is not None
    flight.req.sampling_params.custom_params = {PARAMETER: places}
    flight.req.cached_tokens = flight.computed
    return flight


def written(flight: Flight) -> int:
    details = report(None, None, flight.req)  # type: ignore[arg-type]
    assert details is not None
    return int(details[WRITTEN])


def test_states_at_all_places_of_a_prompt_and_the_next_resumes_at_one() -> None:
    run = serving()
    first = begin(run, PROMPT, [5, 12, 15])
    assert written(first) == 0
    run.chunk(first, 20)
    assert written(first) == 15
    # It compares what it resumes from with what was computed.
    second = begin(run, [*PROMPT[:13], 90, 91], [5, 13])
    assert second.computed == 12
    run.chunk(second, 15)
    assert written(second) == 1
    run.check()


def test_chunks_leave_theirs() -> None:
    run = serving()
    flight = begin(run, PROMPT, [5, 12])
    run.chunk(flight, 8)
    assert written(flight) == 5
    run.chunk(flight, 20)
    assert written(flight) == 12
    run.check()


def test_the_last_whole_page() -> None:
    run = serving(PAGES_OF_FOUR)
    flight = begin(run, PROMPT, [3, 11])
    run.chunk(flight, 20)
    assert written(flight) == 8
    assert begin(run, [*PROMPT[:11], 90, 91, 92, 93], []).computed == 8


def test_without_room_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    run = serving()
    component = run.cache.components[MAMBA]
    monkeypatch.setattr(component, "_spares_a_slot", lambda: False)
    flight = begin(run, PROMPT, [5, 12])
    run.chunk(flight, 20)
    assert written(flight) == 0
    run.check()


def test_what_another_has_written_meanwhile_is_not_written_again() -> None:
    run = serving()
    one, other = begin(run, PROMPT, [12]), begin(run, PROMPT, [12])
    run.chunk(one, 20)
    run.chunk(other, 20)
    assert [written(one), written(other)] == [12, 0]
    run.check()


def test_places_beyond_a_prompt_that_was_truncated() -> None:
    run = serving()
    flight = begin(run, PROMPT, [5, 20, 30])
    run.chunk(flight, 20)
    assert written(flight) == 5


def test_why_a_state_is_stored() -> None:
    run = serving()
    observer = Observer()
    reasons: list[Reason] = []
    observer.on(Stored, lambda event: reasons.append(event.reason))
    run.cache.components[MAMBA].observer = observer
    run.chunk(begin(run, PROMPT, [5, 12]), 20)
    assert reasons == [Reason.DECLARED, Reason.DECLARED]


def test_who_declares_nothing_is_told_nothing() -> None:
    run = serving()
    flight = begin(run, PROMPT, None)
    run.chunk(flight, 20)
    assert report(None, None, flight.req) is None  # type: ignore[arg-type]
    details = {"device": 3, "host": 0}
    assert report(details, None, flight.req) is details  # type: ignore[arg-type]
