"""How the memory for recurrent states is divided between requests and checkpoints."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.cache import memory_split
from sglang_marconi.cache.memory_split import SlotsOfRequests, SlotUse, divide, spared_slots
from sglang_marconi.compatibility import UnsupportedConfiguration

MB = 10**6


def test_by_default_requests_keep_what_they_need() -> None:
    # SGLang, extra_buffer: 5 slots for a request, of which it uses 3.
    use = SlotUse(total=300, slot_bytes=50 * MB, requests=60, each=3)
    split = divide(use, None)
    assert split.active_slots == 60 * 3 + 4
    assert split.store_bytes == (300 - 184) * 50 * MB


@pytest.mark.parametrize(
    ("memory", "given"), [(0.5, 150), (0.501, 151), ("5GB", 100), ("5001MB", 101)]
)
def test_a_share_or_bytes(memory: float | str, given: int) -> None:
    split = divide(SlotUse(total=300, slot_bytes=50 * MB, requests=60, each=3), memory)
    assert split == (300 - given, given * 50 * MB)


@given(
    total=st.integers(1, 400),
    slot_bytes=st.integers(1, 10**9),
    requests=st.integers(1, 100),
    each=st.integers(1, 3),
    memory=st.none() | st.floats(0.001, 0.999) | st.integers(1, 10**12).map(lambda b: f"{b}B"),
)
def test_no_byte_is_lost_and_a_request_can_run(
    total: int, slot_bytes: int, requests: int, each: int, memory: float | str | None
) -> None:
    use = SlotUse(total, slot_bytes, requests, each)
    try:
        split = divide(use, memory)
    except UnsupportedConfiguration as error:
        assert f"{total} slots of {slot_bytes:,}" in str(error)
        return
    assert split.active_slots * slot_bytes + split.store_bytes == total * slot_bytes
    assert split.active_slots >= each + 1
    assert split.store_bytes > 0


@pytest.mark.parametrize(
    ("asked", "tracks", "overlap", "slots"),
    [
        # 3 more for each request, of which it takes one: 4 of 5 slots are left for checkpoints.
        ("extra_buffer", False, True, 2),
        ("auto", False, True, 2),
        ("extra_buffer", False, False, 1),
        ("extra_buffer_lazy", False, True, 1),
        # SGLang gives no more in the first place.
        ("no_buffer", False, False, 0),
        ("auto", False, False, 0),
        # Larger KV pages: SGLang counts those that it tracks states in itself.
        ("auto", True, True, 0),
        ("extra_buffer", True, False, 0),
    ],
)
def test_slots_that_no_request_tracks_in(
    asked: str, tracks: bool, overlap: bool, slots: int
) -> None:
    assert spared_slots(asked, tracks=tracks, overlap=overlap) == slots


@pytest.mark.parametrize(("wanted", "each"), [(None, 5), (64, 3)])
def test_they_are_for_checkpoints_unless_more_requests_were_asked_for(
    wanted: int | None, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = SimpleNamespace(max_running_requests=wanted)
    monkeypatch.setattr(memory_split, "get_schedule", lambda: schedule)
    configurator: Any = None
    assert SlotsOfRequests(2).count(lambda _: 3, configurator) == each


def test_a_small_pool_has_a_store_too() -> None:
    """With fewer slots for passes to write to."""
    assert divide(SlotUse(total=10, slot_bytes=MB, requests=2, each=3), None) == (9, MB)
    assert divide(SlotUse(total=12, slot_bytes=MB, requests=2, each=3), None) == (10, 2 * MB)
