"""The paged store by itself: what comes back, what is touched, and what is left free."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from marconi_kernels import Encoding, StateLayout, StatePart
from sglang_marconi.pool import CheckpointStore, StoreSizeError, store_size

CPU = torch.device("cpu")
LAYERS, SLOTS = 3, 4
PARTS = (
    StatePart((24, 3), torch.bfloat16, lossy=False),
    StatePart((2, 40, 24), torch.float32, lossy=True),
)
LAYOUT = StateLayout(LAYERS, PARTS, page_bytes=512)
EXACT_BYTES = LAYOUT.pages(Encoding.EXACT) * LAYOUT.page_bytes
# Of what a group of elements with one scale spans, what an element may be off by.
BOUND = {Encoding.BF16: 2.0**-8, Encoding.INT8: 0.5 / 127 * 1.001, Encoding.FP8: 2.0**-4}


def active() -> list[torch.Tensor]:
    return [torch.zeros((LAYERS, SLOTS, *part.shape), dtype=part.dtype) for part in PARTS]


def random_state(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn((LAYERS, *part.shape), generator=generator).to(part.dtype) for part in PARTS
    ]


def check(found: list[torch.Tensor], expected: list[torch.Tensor], lossy: Encoding | None) -> None:
    for part, value, kind in zip(found, expected, PARTS, strict=True):
        if lossy is None or not kind.lossy:
            assert torch.equal(part, value)
        else:
            # A column of a head shares a scale.
            span = value.double().abs().amax(dim=-2, keepdim=True)
            assert ((part.double() - value.double()).abs() <= span * BOUND[lossy]).all()


class StoreMachine(RuleBasedStateMachine):
    """Any use of a store: each checkpoint keeps the state that was put into it."""

    lossy: ClassVar[Encoding | None] = None

    @initialize(checkpoints=st.integers(1, 5), on_host=st.integers(0, 3))
    def start(self, checkpoints: int, on_host: int) -> None:
        size = store_size(
            LAYOUT,
            (checkpoints + 1) * EXACT_BYTES + 700,
            lossy=self.lossy,
            host_bytes=on_host * EXACT_BYTES,
        )
        self.store = CheckpointStore(LAYOUT, size, lossy=self.lossy, device=CPU)
        self.active = active()
        self.states: dict[int, list[torch.Tensor]] = {}
        self.made = 0

    def pick(self, number: int) -> int:
        return sorted(self.states)[number % len(self.states)]

    @rule(slot=st.integers(0, SLOTS - 1))
    def put(self, slot: int) -> None:
        room = self.store.available_pages >= self.store.pages_of_new
        checkpoint = self.store.allocate()
        assert (checkpoint is not None) == room
        if checkpoint is None:
            return
        self.made += 1
        state = random_state(self.made)
        for tensor, value in zip(self.active, state, strict=True):
            tensor[:, slot] = value
        self.store.store(checkpoint, self.active, torch.tensor([slot]))
        # A request goes on and changes its slot.
        for tensor in self.active:
            tensor[:, slot] = 7.0
        self.states[checkpoint] = state

    @precondition(lambda self: self.states)
    @rule(numbers=st.lists(st.integers(0, 9), min_size=1, max_size=SLOTS))
    def get(self, numbers: list[int]) -> None:
        """Several at a time, the same one more than once."""
        chosen = [self.pick(number) for number in numbers]
        slots = torch.randperm(SLOTS)[: len(chosen)]
        before = [tensor.clone() for tensor in self.active]
        self.store.load(chosen, self.active, slots)
        for checkpoint, slot in zip(chosen, slots.tolist(), strict=True):
            name = self.store.forms[self.store.form(checkpoint)]
            lossy = self.lossy if name.lost >= 0.02 and len(self.encodings()) > 1 else None
            found = [tensor[:, slot] for tensor in self.active]
            check(found, self.states[checkpoint], lossy)
        others = [slot for slot in range(SLOTS) if slot not in slots.tolist()]
        for tensor, was in zip(self.active, before, strict=True):
            assert torch.equal(tensor[:, others], was[:, others])

    def encodings(self) -> list[str]:
        return [form.name for form in self.store.forms if not form.host_bytes]

    @precondition(lambda self: self.states)
    @rule(number=st.integers(0, 9))
    def demote(self, number: int) -> None:
        checkpoint = self.pick(number)
        following = self.store.form(checkpoint) + 1
        if following == len(self.store.forms):
            return
        free, held = self.store.available_pages, self.store.device_pages(checkpoint)
        freed = self.store.set_form(checkpoint, following)
        if freed is None:
            # The host is full.
            assert self.store.forms[following].host_bytes
            assert self.store.available_pages == free
        else:
            assert freed > 0
            assert self.store.available_pages == free + freed
            assert self.store.device_pages(checkpoint) == held - freed

    @precondition(lambda self: self.states)
    @rule(number=st.integers(0, 9))
    def bring_back(self, number: int) -> None:
        checkpoint = self.pick(number)
        form = self.store.form(checkpoint)
        if self.store.forms[form].host_bytes:
            taken = self.store.set_form(checkpoint, form - 1)
            assert taken is None or taken < 0

    @precondition(lambda self: self.states)
    @rule(number=st.integers(0, 9))
    def free(self, number: int) -> None:
        checkpoint = self.pick(number)
        self.store.free(checkpoint)
        del self.states[checkpoint]

    @rule()
    def forget(self) -> None:
        self.store.clear()
        self.states.clear()

    @invariant()
    def pages_add_up(self) -> None:
        if hasattr(self, "store"):
            held = sum(map(self.store.device_pages, self.states))
            assert self.store.available_pages + held == self.store.pages
            counts = [self.store.count(form) for form in range(len(self.store.forms))]
            assert sum(counts) == len(self.states)


class Int8Machine(StoreMachine):
    lossy = Encoding.INT8


class Bf16Machine(StoreMachine):
    lossy = Encoding.BF16


class Fp8Machine(StoreMachine):
    lossy = Encoding.FP8


_MACHINE = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestExact = StoreMachine.TestCase
TestExact.settings = _MACHINE
TestInt8 = Int8Machine.TestCase
TestInt8.settings = _MACHINE
TestBf16 = Bf16Machine.TestCase
TestBf16.settings = _MACHINE
TestFp8 = Fp8Machine.TestCase
TestFp8.settings = _MACHINE


@pytest.mark.parametrize("lossy", [None, Encoding.INT8])
@pytest.mark.parametrize("host_bytes", [0, 10 * EXACT_BYTES])
def test_the_smallest_store_holds_one_checkpoint(lossy: Encoding | None, host_bytes: int) -> None:
    small = 0
    while True:
        try:
            size = store_size(LAYOUT, small, lossy=lossy, host_bytes=host_bytes)
            break
        except StoreSizeError as error:
            assert f"{EXACT_BYTES:,}" in str(error)
            small += LAYOUT.page_bytes
    store = CheckpointStore(LAYOUT, size, lossy=lossy, device=CPU)
    checkpoint = store.allocate()
    assert checkpoint is not None
    assert store.allocate() is None
    # With nothing free it can still be demoted, moved, and loaded from where it is.
    for form in range(1, len(store.forms)):
        assert store.set_form(checkpoint, form)
    tensors = active()
    store.load([checkpoint], tensors, torch.tensor([1]))


def test_warming_up_leaves_a_store_as_it_was() -> None:
    size = store_size(LAYOUT, 5 * EXACT_BYTES, lossy=Encoding.INT8, host_bytes=2 * EXACT_BYTES)
    store = CheckpointStore(LAYOUT, size, lossy=Encoding.INT8, device=CPU)
    tensors = active()
    for tensor in tensors:
        tensor.fill_(3.0)
    store.warm_up(tensors, 0)
    assert store.available_pages == store.pages
    assert store.available_host_pages == size.host_pages
    assert all((tensor[:, 1:] == 3.0).all() for tensor in tensors)


def test_host_memory_for_less_than_a_checkpoint_is_an_error() -> None:
    with pytest.raises(StoreSizeError, match="do not hold one checkpoint"):
        store_size(LAYOUT, 10 * EXACT_BYTES, host_bytes=EXACT_BYTES - 1)


def test_capacity_of_an_fp32_state() -> None:
    """NemotronH 8B: the store's own arithmetic, reserve and whole pages included."""
    parts = [
        StatePart((10240, 3), torch.bfloat16, lossy=False),
        StatePart((128, 64, 128), torch.float32, lossy=True),
    ]
    layout = StateLayout(24, parts)
    room = 64 * layout.state_bytes

    def fitting(lossy: Encoding | None) -> int:
        size = store_size(layout, room, lossy=lossy)
        each = layout.pages(lossy or Encoding.EXACT)
        return (size.device_pages - size.reserved_pages) // each

    assert fitting(Encoding.BF16) >= 1.9 * fitting(None)
    assert fitting(Encoding.INT8) >= 3.5 * fitting(None)
