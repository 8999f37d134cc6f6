"""The store on a GPU: what waits for what on real streams, and that the host waits for nothing.

Needs torch and Triton, no SGLang.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from marconi_kernels import Encoding, StateLayout, StatePart
from sglang_marconi.cache.checkpoint_pool import CheckpointPool
from sglang_marconi.pool import CheckpointStore, store_size

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

LAYERS, SLOTS = 4, 6
PARTS = (
    StatePart((1024, 3), torch.bfloat16, lossy=False),
    StatePart((16, 64, 128), torch.float32, lossy=True),
)
LAYOUT = StateLayout(LAYERS, PARTS)
EXACT_BYTES = LAYOUT.pages(Encoding.EXACT) * LAYOUT.page_bytes
# Clock cycles for which a stream is held back: tenths of a second.
LONG = 300_000_000


class Server:
    """A store beside slots, on the streams that SGLang's scheduler and its passes use."""

    def __init__(
        self, *, overlap: bool, checkpoints: int = 4, on_host: int = 3, lossy: bool = True
    ) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.scheduler = torch.cuda.Stream()
        self.forward = torch.cuda.Stream() if overlap else self.scheduler
        self.active = [
            torch.zeros((LAYERS, SLOTS, *part.shape), dtype=part.dtype, device=self.device)
            for part in PARTS
        ]
        conv, temporal = self.active
        self.states: Any = SimpleNamespace(
            mamba_cache=SimpleNamespace(conv=[conv], temporal=temporal),
            _slot_siblings=(),
            replayssm_write_pos=torch.full((SLOTS,), 3, dtype=torch.int32, device=self.device),
            get_contiguous_buf_infos=lambda: (
                [],
                [],
                [tensor[0, 0].nbytes for tensor in self.active for _ in range(LAYERS)],
            ),
        )
        encoding = Encoding.INT8 if lossy else None
        size = store_size(
            LAYOUT,
            (checkpoints + 1) * EXACT_BYTES,
            lossy=encoding,
            host_bytes=on_host * EXACT_BYTES,
        )
        self.store = CheckpointStore(LAYOUT, size, lossy=encoding, device=self.device)
        self.pool = CheckpointPool(self.store)
        # As SGLang builds its cache: on the default stream, before any of the others is used.
        self.pool.attach(self.states, self.forward if overlap else None)
        self.slots = [torch.tensor([slot], device=self.device) for slot in range(SLOTS)]
        # torch's own kernels are loaded as they are first used, for which the device is waited for.
        with torch.cuda.stream(self.scheduler):
            self.write(1, 1.0, after=1)
            self.get(self.put(1), 2)
            self.read(2)
        torch.cuda.synchronize()
        self.pool.clear()
        self.states.replayssm_write_pos.fill_(3)
        torch.cuda.synchronize()

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Queue a pass, as ``Scheduler.run_batch`` does."""
        if self.forward is self.scheduler:
            yield
            return
        self.forward.wait_stream(self.scheduler)
        with torch.cuda.stream(self.forward):
            yield

    def write(self, slot: int, state: float, *, after: int = 0) -> None:
        """A pass leaves a state, the same number everywhere, after so many cycles."""
        with self.passing():
            if after:
                torch.cuda._sleep(after)
            for tensor in self.active:
                tensor[:, slot].fill_(state)

    def read(self, slot: int) -> list[torch.Tensor]:
        """What the next pass finds in a slot."""
        with self.passing():
            return [tensor[:, slot].clone() for tensor in self.active]

    def put(self, slot: int) -> torch.Tensor:
        """As a tree component does with the state of a slot."""
        checkpoint = self.pool.alloc()
        assert checkpoint is not None
        self.pool.store_from_active(self.states, self.slots[slot], checkpoint)
        return checkpoint

    def get(self, checkpoint: torch.Tensor, slot: int) -> None:
        """As the model runner does before a request's first pass."""
        with self.passing():
            self.pool.load_to_active(self.states, checkpoint, self.slots[slot])


@pytest.fixture(params=[True, False], ids=["overlap", "same-stream"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(overlap=request.param, lossy=False)
    with torch.cuda.stream(server.scheduler):
        yield server
    torch.cuda.synchronize()


def holds(found: list[torch.Tensor], state: float, tolerance: float = 0.0) -> bool:
    torch.cuda.synchronize()
    return all(bool(((part.float() - state).abs() <= tolerance).all()) for part in found)


# ---- order ----


def test_a_state_is_stored_after_the_pass_that_makes_it_and_before_the_next(
    server: Server,
) -> None:
    server.write(1, 5.0, after=LONG)
    checkpoint = server.put(1)
    # The request goes on in its slot, or the next one does.
    server.write(1, 7.0)
    server.get(checkpoint, 2)
    assert holds(server.read(2), 5.0)
    assert holds(server.read(1), 7.0)


def test_a_state_written_on_the_schedulers_stream_is_stored(server: Server) -> None:
    torch.cuda._sleep(LONG)
    for tensor in server.active:
        tensor[:, 1].fill_(5.0)
    checkpoint = server.put(1)
    server.write(1, 7.0)
    server.get(checkpoint, 2)
    assert holds(server.read(2), 5.0)


def test_a_slot_is_filled_before_the_pass_that_reads_it_and_after_the_one_before(
    server: Server,
) -> None:
    server.write(1, 5.0)
    checkpoint = server.put(1)
    server.write(2, 9.0, after=LONG)
    before = server.read(2)
    server.get(checkpoint, 2)
    after = server.read(2)
    assert holds(before, 9.0)
    assert holds(after, 5.0)


def test_pages_given_back_are_written_after_they_were_read(server: Server) -> None:
    server.write(1, 5.0)
    checkpoint = server.put(1)
    server.write(3, 6.0, after=LONG)
    server.get(checkpoint, 2)
    server.pool.free(checkpoint)
    # As many as there are: its pages are among theirs.
    server.write(1, 8.0)
    while server.pool.available_size() >= server.store.pages_of_new:
        server.put(1)
    assert holds(server.read(2), 5.0)


def test_the_schedulers_stream_does_not_wait_for_passes() -> None:
    server = Server(overlap=True)
    with torch.cuda.stream(server.scheduler):
        server.write(1, 5.0, after=LONG)
        checkpoint = server.put(1)
        server.get(checkpoint, 2)
        server.store.set_form(int(checkpoint), 1)
        server.store.set_form(int(checkpoint), 2)
        server.scheduler.synchronize()
        assert not server.forward.query()
    torch.cuda.synchronize()


# ---- moves ----


def moves_stream(server: Server) -> torch.cuda.Stream:
    stream = server.store._order._moves_stream
    assert stream is not None
    return stream


def test_a_move_does_not_wait_for_a_pass_nor_a_pass_for_it(server: Server) -> None:
    server.write(1, 5.0)
    first, second = server.put(1), server.put(1)
    torch.cuda.synchronize()
    server.write(3, 1.0, after=LONG)
    server.store.set_form(int(first), 1)
    moves_stream(server).synchronize()
    assert not server.forward.query()
    torch.cuda.synchronize()
    with torch.cuda.stream(moves_stream(server)):
        torch.cuda._sleep(LONG)
    server.store.set_form(int(second), 1)
    server.write(3, 2.0)
    third = server.put(3)
    server.get(third, 4)
    found = server.read(4)
    server.forward.synchronize()
    assert not moves_stream(server).query()
    assert holds(found, 2.0)


def test_pages_that_a_move_reads_are_written_after_it(server: Server) -> None:
    server.write(1, 5.0)
    checkpoint = server.put(1)
    torch.cuda.synchronize()
    with torch.cuda.stream(moves_stream(server)):
        torch.cuda._sleep(LONG)
    server.store.set_form(int(checkpoint), 1)
    server.write(1, 8.0)
    while server.pool.available_size() >= server.store.pages_of_new:
        server.put(1)
    server.get(checkpoint, 2)
    assert holds(server.read(2), 5.0)


def test_a_load_waits_for_a_checkpoint_that_is_on_its_way(server: Server) -> None:
    server.write(1, 5.0)
    checkpoint = server.put(1)
    torch.cuda.synchronize()
    for form in (1, 0):
        with torch.cuda.stream(moves_stream(server)):
            torch.cuda._sleep(LONG)
        server.store.set_form(int(checkpoint), form)
        server.get(checkpoint, 2 + form)
        found = server.read(2 + form)
        assert holds(found, 5.0)


def test_a_state_moves_after_the_pass_that_makes_it(server: Server) -> None:
    server.write(1, 5.0, after=LONG)
    checkpoint = server.put(1)
    server.store.set_form(int(checkpoint), 1)
    server.write(1, 7.0)
    server.get(checkpoint, 2)
    assert holds(server.read(2), 5.0)


def test_any_state_survives_all_forms() -> None:
    """Random states, demoted, moved and brought back, beside passes; nothing waits in between."""
    server = Server(overlap=True, checkpoints=6, on_host=6)
    generator = torch.Generator(server.device).manual_seed(0)
    with torch.cuda.stream(server.scheduler):
        expected, checkpoints = [], []
        for _ in range(6):
            with server.passing():
                torch.cuda._sleep(LONG // 100)
                for tensor in server.active:
                    tensor[:, 1].normal_(generator=generator)
            expected.append(server.read(1))
            checkpoints.append(server.put(1))
            server.write(1, 0.0)
            server.store.set_form(int(checkpoints[-1]), 1)
            server.store.set_form(int(checkpoints[-1]), 2)
        for number, (checkpoint, state) in enumerate(zip(checkpoints, expected, strict=True)):
            if number % 2:
                server.store.set_form(int(checkpoint), 1)
            server.get(checkpoint, 2)
            window, recurrent = server.read(2)
            torch.cuda.synchronize()
            assert torch.equal(window, state[0])
            bound = state[1].abs().amax() / 127
            assert (recurrent - state[1]).abs().max() <= bound


# ---- the host waits for nothing ----


@contextmanager
def nothing_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_no_operation_waits_for_the_device(server: Server) -> None:
    pool, states = server.pool, server.states

    def at_once(work: Callable[[], Any]) -> Any:
        with nothing_waits():
            return work()

    two = torch.cat(server.slots[2:4])
    server.write(1, 5.0, after=LONG)
    first, second = at_once(pool.alloc), at_once(pool.alloc)
    at_once(lambda: pool.store_from_active(states, server.slots[1].view(-1), first))
    at_once(lambda: pool.store_from_active(states, server.slots[1].view(-1), second))
    both = torch.cat([first, second])

    def load() -> None:
        with server.passing():
            pool.load_to_active(states, both, two)

    at_once(load)
    for form in (1, 0, 1):
        at_once(lambda form=form: server.store.set_form(int(first), form))
        at_once(load)
    at_once(lambda: pool.free(second))
    at_once(pool.clear)
    # All of it was queued behind the pass.
    assert not server.forward.query()
    torch.cuda.synchronize()
    assert states.replayssm_write_pos.tolist() == [3, 3, 0, 0, 3, 3]


@pytest.mark.parametrize("overlap", [True, False])
def test_a_demotion_does_not_wait_for_the_device(overlap: bool) -> None:
    server = Server(overlap=overlap, lossy=True)
    with torch.cuda.stream(server.scheduler):
        server.write(1, 5.0, after=LONG)
        checkpoint = server.put(1)
        with nothing_waits():
            for form in (1, 2, 1):
                server.store.set_form(int(checkpoint), form)
        assert not server.forward.query()
        server.get(checkpoint, 2)
        assert holds(server.read(2), 5.0, tolerance=0.05)


def test_host_memory_is_pinned_and_of_just_the_size() -> None:
    server = Server(overlap=False)
    buffer = server.store._on_host.buffer
    assert buffer.is_pinned()
    assert buffer.nbytes == server.store.host_pages * LAYOUT.page_bytes
