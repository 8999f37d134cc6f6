"""A tracked state is named for the length that the last pass launched wrote it at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang_marconi.cache.tracked_states import Tracked, TrackedStates

GRID = 4


class Request:
    """What is looked at of a request."""

    def __init__(self, kv: Any) -> None:
        self.kv = kv


def request(slots: int = 2, empty: tuple[int, ...] = ()) -> Any:
    """A request that has just been given its tracking slots."""
    kv = SimpleNamespace(
        mamba_ping_pong_track_buffer=torch.arange(10, 10 + slots),
        mamba_ping_pong_empty=[position in empty for position in range(slots)],
        mamba_next_track_idx=0,
        mamba_last_track_idx=slots - 1,
        mamba_last_track_seqlen=None,
    )
    return Request(kv)


def decoded(tracked: TrackedStates, req: Any, tokens: int, mode: ForwardMode) -> int | None:
    """A decode of a request's token number ``tokens`` is launched; the slot entry it writes.

    SGLang's own reckoning of where to write next never comes, as if no result were read.
    """
    batch: Any = SimpleNamespace(
        forward_mode=mode,
        reqs=[req],
        decoding_reqs=[req],
        seq_lens_cpu=torch.tensor([tokens]),
        mamba_prefill_track_mask_cpu=[False] if mode is ForwardMode.MIXED else None,
        mamba_track_mask_cpu=None if mode is ForwardMode.MIXED else [tokens % GRID == 0],
    )
    tracked.before_decode(batch)
    batch.mamba_track_buffer_indices = [req.kv.mamba_next_track_idx]
    tracked.launched(None, batch)
    written = mode is ForwardMode.DECODE and tokens % GRID == 0
    return req.kv.mamba_next_track_idx if written else None


def prefilled(
    tracked: TrackedStates, prefixes: dict[Any, int], tracks: list[bool], decodes: Any = ()
) -> None:
    """A prefill of requests that have ``prefixes`` already is launched, with decodes in it."""
    batch: Any = SimpleNamespace(
        forward_mode=ForwardMode.MIXED if decodes else ForwardMode.EXTEND,
        reqs=[*prefixes, *decodes],
        prefix_lens=list(prefixes.values()),
        decoding_reqs=list(decodes),
        mamba_prefill_track_mask_cpu=[*tracks, *([False] * len(decodes))],
    )
    tracked.launched(None, batch)


@given(
    st.lists(st.sampled_from([ForwardMode.DECODE, ForwardMode.MIXED]), min_size=1, max_size=40),
    st.integers(0, 40),
)
def test_names_are_those_of_what_was_written(modes: list[ForwardMode], behind: int) -> None:
    tracked, req = TrackedStates(), request()
    # What the device holds, and the two states written last.
    held: dict[int, int] = {}
    written: list[int] = []
    for tokens, mode in enumerate(modes, 1):
        position = decoded(tracked, req, tokens, mode)
        if position is not None:
            held[position] = tokens
            written.append(tokens)
    most = max(len(modes) - behind, 0)
    usable = [tokens for tokens in written[-2:] if tokens <= most]
    found = tracked.newest(req, most, page_size=1)
    assert (found.tokens if found else None) == max(usable, default=None)
    if found:
        assert held[found.position] == found.tokens


def test_a_decode_in_flight_takes_the_place_of_the_older_state() -> None:
    tracked, req = TrackedStates(), request()
    # The boundary at 8 rides in a prefill's pass; the one at 12 is in flight when 11 is the last.
    for tokens in range(1, 13):
        mode = ForwardMode.MIXED if tokens == 8 else ForwardMode.DECODE
        decoded(tracked, req, tokens, mode)
    found = tracked.newest(req, 11, page_size=1)
    assert found is not None
    assert found.tokens == 4


def test_a_prefill_is_noted_at_the_length_it_was_planned_for() -> None:
    tracked, req, other = TrackedStates(), request(), request()
    for each, tokens in ((req, 64), (other, 128)):
        each.kv.mamba_last_track_idx, each.kv.mamba_last_track_seqlen = 0, tokens
    prefilled(tracked, {req: 0, other: 0}, [True, False])
    assert tracked.newest(req, 100, page_size=16) == Tracked(64, 0)
    assert tracked.newest(other, 200, page_size=16) is None


def test_decodes_sent_as_a_prefill_leave_a_slot_that_nobody_knows() -> None:
    tracked, req = TrackedStates(), request(slots=1)
    decoded(tracked, req, 4, ForwardMode.DECODE)
    assert tracked.newest(req, 4, page_size=1) == Tracked(4, 0)
    decoded(tracked, req, 8, ForwardMode.EXTEND)
    assert tracked.newest(req, 8, page_size=1) is None


def test_only_whole_pages_and_slots_that_are_held_are_named() -> None:
    tracked, req = TrackedStates(), request()
    decoded(tracked, req, 4, ForwardMode.DECODE)
    decoded(tracked, req, 8, ForwardMode.DECODE)
    assert tracked.newest(req, 9, page_size=8) == Tracked(8, 1)
    assert tracked.newest(req, 7, page_size=8) is None
    req.kv.mamba_ping_pong_empty[1] = True
    assert tracked.newest(req, 9, page_size=1) == Tracked(4, 0)


def test_a_turn_that_goes_back_behind_a_state_loses_it() -> None:
    tracked, req, beside = TrackedStates(), request(), request()
    for each in (req, beside):
        decoded(tracked, each, 4, ForwardMode.DECODE)
        decoded(tracked, each, 8, ForwardMode.DECODE)
    prefilled(tracked, {req: 5}, [False], decodes=[beside])
    assert tracked.newest(req, 9, page_size=1) == Tracked(4, 0)
    assert tracked.newest(beside, 9, page_size=1) == Tracked(8, 1)


def test_new_slots_start_without_a_state() -> None:
    tracked, req = TrackedStates(), request()
    decoded(tracked, req, 4, ForwardMode.DECODE)
    req.kv.mamba_ping_pong_track_buffer = req.kv.mamba_ping_pong_track_buffer.clone()
    assert tracked.newest(req, 9, page_size=1) is None
    req.kv.mamba_ping_pong_track_buffer = None
    decoded(tracked, req, 8, ForwardMode.DECODE)
