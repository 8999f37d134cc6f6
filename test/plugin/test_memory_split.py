"""How the memory for recurrent states is divided between requests and checkpoints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.cache.memory_split import SlotUse, divide
from sglang_marconi.compatibility import UnsupportedConfiguration

MB = 10**6


def test_by_default_requests_keep_what_they_need() -> None:
    # SGLang, extra_buffer: 5 slots for a request, of which it uses 3.
    use = SlotUse(total=300, slot_bytes=50 * MB, requests=60, each=3)
    split = divide(use, None)
    assert split.active_slots == 60 * 3 + 1
    assert split.store_bytes == (300 - 181) * 50 * MB


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
