"""On a GPU work is queued on streams: whatever order they then allow, every state is right."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from typing import ClassVar

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from marconi_kernels import Encoding, StateLayout, StatePart
from sglang_marconi.pool import CheckpointStore, store_size
from sglang_marconi.pool.host_memory import HostMemoryError, host_pages
from support.fake_cuda import FakeCuda, Stream, delayed

CPU = torch.device("cpu")
LAYERS, SLOTS = 2, 3
PARTS = (StatePart((40, 3), torch.bfloat16, False), StatePart((2, 24, 16), torch.float32, True))
LAYOUT = StateLayout(LAYERS, PARTS, page_bytes=512)
EXACT_BYTES = LAYOUT.pages(Encoding.EXACT) * LAYOUT.page_bytes


class Device:
    """A store, slots, and the streams of a scheduler and of forward passes."""

    def __init__(
        self,
        *,
        overlap: bool,
        lossy: Encoding | None = None,
        checkpoints: int = 3,
        on_host: int = 2,
    ) -> None:
        self.cuda = FakeCuda()
        self.scheduler = self.cuda.current
        self.forward = self.cuda.Stream() if overlap else self.scheduler
        size = store_size(
            LAYOUT, (checkpoints + 1) * EXACT_BYTES, lossy=lossy, host_bytes=on_host * EXACT_BYTES
        )
        self.store = CheckpointStore(LAYOUT, size, lossy=lossy, device=CPU, cuda=self.cuda)
        self.store.serve_on(self.forward if overlap else None)
        self.active = [torch.zeros((LAYERS, SLOTS, *p.shape), dtype=p.dtype) for p in PARTS]

    @property
    def moves(self) -> Stream:
        return self.cuda.streams[-1]

    def wait_for_scheduler(self) -> None:
        """As each pass does."""
        if self.forward is not self.scheduler:
            self.forward.wait_stream(self.scheduler)

    def compute(self) -> bool:
        """Do what passes can do without the end of a move; whether that is all."""
        return self.scheduler.drain() and self.forward.drain()

    def write(self, slot: int, state: float, stream: Stream | None = None) -> None:
        """A pass of the request in a slot, whose state is then the same number everywhere."""

        def fill() -> None:
            for part in self.active:
                part[:, slot] = state

        if stream is None:
            stream = self.forward
            self.wait_for_scheduler()
        stream.queue(fill)

    def expect(self, slot: int, state: float) -> None:
        """What the next pass finds in a slot."""

        def check() -> None:
            for part in self.active:
                found = part[:, slot].float()
                assert torch.allclose(found, torch.full_like(found, state), rtol=0.02)

        self.forward.queue(check)

    def put(self, slot: int) -> int | None:
        checkpoint = self.store.allocate()
        if checkpoint is not None:
            self.store.store(checkpoint, self.active, torch.tensor([slot]))
        return checkpoint

    def get(self, checkpoints: list[int], slots: list[int]) -> None:
        # SGLang fills slots as part of a pass.
        self.wait_for_scheduler()
        with self.cuda.stream(self.forward):
            self.store.load(checkpoints, self.active, torch.tensor(slots))


class OrderMachine(RuleBasedStateMachine):
    """Any use of a store, and any progress of the streams in between."""

    overlap: ClassVar[bool] = True
    lossy: ClassVar[Encoding | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()

    @initialize(checkpoints=st.integers(1, 3), on_host=st.integers(0, 2))
    def start(self, checkpoints: int, on_host: int) -> None:
        self.device = Device(
            overlap=self.overlap, lossy=self.lossy, checkpoints=checkpoints, on_host=on_host
        )
        self.stack.enter_context(delayed(self.device.cuda))
        self.states: dict[int, float] = {}
        self.made = 0

    def pick(self, number: int) -> int:
        return sorted(self.states)[number % len(self.states)]

    @rule(slot=st.integers(0, SLOTS - 1), by_scheduler=st.booleans())
    def put(self, slot: int, by_scheduler: bool) -> None:
        self.made += 1
        device = self.device
        if by_scheduler:
            # Such as SGLang's own copies, which wait for passes.
            device.scheduler.wait_stream(device.forward)
        device.write(slot, float(self.made), device.scheduler if by_scheduler else None)
        if device.store.available_pages < device.store.pages_of_new and self.states:
            self.move(self.made, back=False)
        checkpoint = device.put(slot)
        if checkpoint is not None:
            self.states[checkpoint] = float(self.made)
        # The request goes on, or the next one takes its slot.
        device.write(slot, -1.0)

    @precondition(lambda self: self.states)
    @rule(numbers=st.lists(st.integers(0, 9), min_size=1, max_size=SLOTS))
    def get(self, numbers: list[int]) -> None:
        chosen = [self.pick(number) for number in numbers]
        slots = list(range(len(chosen)))
        self.device.get(chosen, slots)
        for slot, checkpoint in zip(slots, chosen, strict=True):
            self.device.expect(slot, self.states[checkpoint])
            self.device.write(slot, -2.0)

    @precondition(lambda self: self.states)
    @rule(number=st.integers(0, 9), back=st.booleans())
    def move(self, number: int, back: bool) -> None:
        checkpoint, store = self.pick(number), self.device.store
        form = store.form(checkpoint) + (-1 if back else 1)
        if form == len(store.forms) or (back and not store.forms[form + 1].host_bytes):
            return
        if form >= 0:
            store.set_form(checkpoint, form)

    @precondition(lambda self: self.states)
    @rule(number=st.integers(0, 9))
    def free(self, number: int) -> None:
        checkpoint = self.pick(number)
        self.device.store.free(checkpoint)
        del self.states[checkpoint]

    @rule()
    def forget(self) -> None:
        self.device.store.clear()
        self.states.clear()

    @rule(steps=st.integers(1, 12), seed=st.integers(0, 1 << 16))
    def progress(self, steps: int, seed: int) -> None:
        self.device.cuda.run(steps, seed)

    def teardown(self) -> None:
        with self.stack:
            if hasattr(self, "device"):
                self.device.cuda.run(seed=self.made)
                assert not self.device.cuda.waits_of_the_host


class SameStreamMachine(OrderMachine):
    overlap = False


class LossyMachine(OrderMachine):
    lossy = Encoding.INT8


_MACHINE = settings(max_examples=50, stateful_step_count=25, deadline=None)
TestOverlap = OrderMachine.TestCase
TestOverlap.settings = _MACHINE
TestSameStream = SameStreamMachine.TestCase
TestSameStream.settings = _MACHINE
TestLossy = LossyMachine.TestCase
TestLossy.settings = _MACHINE


# ---- who waits for whom ----


@pytest.fixture(params=[True, False], ids=["overlap", "same-stream"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    device = Device(overlap=request.param)
    with delayed(device.cuda):
        yield device


def test_the_scheduler_does_not_wait_for_passes() -> None:
    device = Device(overlap=True)
    with delayed(device.cuda):
        device.write(0, 1.0)
        checkpoint = device.put(0)
        assert checkpoint is not None
        device.get([checkpoint], [1])
        device.store.set_form(checkpoint, 1)
        assert device.scheduler.drain()
        assert len(device.forward.work) > 2


def test_a_move_and_requests_do_not_wait_for_each_other(device: Device) -> None:
    first, second = device.put(0), device.put(1)
    assert first is not None and second is not None
    device.compute()
    # A pass is under way as the first one moves.
    device.write(2, 3.0)
    device.store.set_form(first, 1)
    assert device.moves.drain()
    assert device.forward.work
    # Another one moves, slowly; passes and what they load and store go on.
    device.store.set_form(second, 1)
    third = device.put(2)
    assert third is not None
    device.get([third], [0])
    assert device.compute()
    assert device.moves.work


def test_what_takes_pages_that_are_still_read_waits_on_the_device(device: Device) -> None:
    device.write(0, 1.0)
    checkpoints = [device.put(0) for _ in range(3)]
    device.compute()
    # Room for one more is made by moving one; its pages are written again.
    assert checkpoints[0] is not None
    device.store.set_form(checkpoints[0], 1)
    device.write(1, 2.0)
    assert device.put(1) is not None
    assert not device.compute()
    assert device.moves.drain()
    assert device.compute()
    device.get([checkpoints[0]], [2])
    device.expect(2, 1.0)
    device.cuda.run()


def test_a_load_waits_for_the_checkpoint_to_come_back(device: Device) -> None:
    # Pages on the host and on the device that differ in their numbers.
    device.put(1)
    device.write(0, 1.0)
    checkpoint = device.put(0)
    assert checkpoint is not None
    device.store.set_form(checkpoint, 1)
    device.cuda.run()
    device.store.set_form(checkpoint, 0)
    device.get([checkpoint], [1])
    assert not device.compute()
    assert device.moves.drain()
    device.expect(1, 1.0)
    assert device.compute()


def test_a_checkpoint_comes_back_into_pages_that_a_demotion_still_reads() -> None:
    device = Device(overlap=True, lossy=Encoding.INT8, checkpoints=1)
    with delayed(device.cuda):
        checkpoints = []
        for state in (1.0, 2.0):
            device.write(0, state)
            checkpoint = device.put(0)
            assert checkpoint is not None
            checkpoints.append(checkpoint)
            if state == 1.0:
                device.store.set_form(checkpoint, 1)
                device.store.set_form(checkpoint, 2)
            device.cuda.run()
        device.store.set_form(checkpoints[1], 1)
        device.store.set_form(checkpoints[0], 1)
        assert not device.moves.drain()
        device.get(checkpoints, [1, 2])
        device.expect(1, 1.0)
        device.expect(2, 2.0)
        device.cuda.run()


def test_without_host_memory_there_is_one_stream_and_no_event() -> None:
    device = Device(overlap=False, on_host=0)
    with delayed(device.cuda):
        assert device.put(0) is not None
    assert device.cuda.streams == [device.scheduler]
    assert len(device.scheduler.work) == 1


def test_warming_up_is_over_when_it_returns(device: Device) -> None:
    device.store.warm_up(device.active, 0)
    assert device.cuda.waits_of_the_host == 1
    assert not any(stream.work for stream in device.cuda.streams)


def test_a_checkpoint_moves_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(overlap=False)
    copies: list[int] = []
    original = torch.Tensor.copy_

    def counted(target: torch.Tensor, source: torch.Tensor, **options: bool) -> torch.Tensor:
        copies.append(len(target))
        return original(target, source, **options)

    monkeypatch.setattr(torch.Tensor, "copy_", counted)
    with delayed(device.cuda):
        checkpoints = [device.put(0) for _ in range(3)]
        device.store.free(checkpoints[1] or 0)
        for checkpoint in (checkpoints[0], checkpoints[2]):
            assert device.store.set_form(checkpoint or 0, 1)
        device.compute()
        copies.clear()
        device.moves.drain()
    assert copies == [LAYOUT.pages(Encoding.EXACT)] * 2


# ---- host memory ----


def test_host_memory_is_of_just_the_size_and_pinned_as_long_as_it_lives() -> None:
    cuda = FakeCuda()
    # Just above a power of two, which torch's own pinned memory would double.
    buffer = host_pages(33, 4096 * 3, cuda=cuda)
    assert buffer.shape == (33, 4096 * 3)
    assert cuda.runtime.registered == {buffer.data_ptr(): 33 * 4096 * 3}
    assert buffer.data_ptr() % 4096 == 0
    buffer.fill_(7)
    assert int(buffer.long().sum()) == 7 * buffer.numel()
    del buffer
    gc.collect()
    assert cuda.runtime.registered == {}


def test_no_host_memory_needs_no_gpu() -> None:
    cuda = FakeCuda()
    assert host_pages(0, 512, cuda=cuda).shape == (0, 512)
    assert host_pages(2, 512, cuda=None).shape == (2, 512)
    assert cuda.runtime.registered == {}


def test_memory_that_cannot_be_pinned_is_an_error_with_its_reason() -> None:
    cuda = FakeCuda()
    cuda.runtime.failure = 2
    with pytest.raises(HostMemoryError, match=r"1,024 bytes.*error 2"):
        host_pages(2, 512, cuda=cuda)
