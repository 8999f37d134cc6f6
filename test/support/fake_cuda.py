"""Streams and events without a GPU: work is done later, in any order that they allow."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sglang_marconi.pool import store as store_module


class Mark:
    """A point of a stream; whether its work has got there."""

    passed = False

    def reach(self) -> None:
        self.passed = True


class Event:
    mark: Mark | None = None

    def record(self, stream: Stream) -> None:
        self.mark = Mark()
        stream.queue(self.mark.reach)

    def query(self) -> bool:
        return self.mark is None or self.mark.passed


class Stream:
    """Work to be done in order; a ``Mark`` is to be waited for."""

    def __init__(self, _device: object = None) -> None:
        self.work: deque[Callable[[], object] | Mark] = deque()

    def queue(self, work: Callable[[], object] | Mark) -> None:
        self.work.append(work)

    def wait_event(self, event: Event) -> None:
        if event.mark is not None:
            self.queue(event.mark)

    def wait_stream(self, other: Stream) -> None:
        event = Event()
        event.record(other)
        self.wait_event(event)

    @property
    def can_go_on(self) -> bool:
        first = self.work[0] if self.work else None
        return first is not None and (not isinstance(first, Mark) or first.passed)

    def go_on(self) -> None:
        """Do the first piece of work."""
        first = self.work.popleft()
        if not isinstance(first, Mark):
            first()

    def drain(self) -> bool:
        """Do what can be done without the other streams; whether that is all."""
        while self.can_go_on:
            self.go_on()
        return not self.work


class FakeRuntime:
    """What ``torch.cuda.cudart()`` has, for the host's memory."""

    def __init__(self) -> None:
        self.registered: dict[int, int] = {}
        self.failure = 0

    def cudaHostRegister(self, address: int, size: int, _flags: int) -> int:
        if not self.failure:
            self.registered[address] = size
        return self.failure

    def cudaHostUnregister(self, address: int) -> int:
        del self.registered[address]
        return 0

    def cudaGetErrorString(self, error: int) -> str:
        return f"error {error}"


class FakeCuda:
    """What the store uses of ``torch.cuda``."""

    Event = Event

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.current = self.Stream()
        self.runtime = FakeRuntime()
        self.waits_of_the_host = 0

    def Stream(self, device: object = None) -> Stream:
        self.streams.append(Stream(device))
        return self.streams[-1]

    def current_stream(self, _device: object = None) -> Stream:
        return self.current

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def cudart(self) -> FakeRuntime:
        return self.runtime

    def synchronize(self, _device: object = None) -> None:
        self.waits_of_the_host += 1
        self.run()

    def run(self, steps: int | None = None, seed: int = 0) -> None:
        """Do so many pieces of work, or all: on the fastest of the streams that can go on."""
        by_speed = random.Random(seed).sample(self.streams, len(self.streams))
        done = 0
        while steps is None or done < steps:
            ready = next((stream for stream in by_speed if stream.can_go_on), None)
            if ready is None:
                assert steps is not None or not any(stream.work for stream in self.streams)
                return
            ready.go_on()
            done += 1


@contextmanager
def delayed(cuda: FakeCuda) -> Iterator[None]:
    """The store's kernels and copies become work on the current stream."""
    names = ("store", "load", "reencode", "copy_pages")
    originals = {name: getattr(store_module, name) for name in names}

    def delay(original: Callable[..., None]) -> Callable[..., None]:
        def queue(*arguments: Any) -> None:
            # A tensor of indices is read on the device, too, but nothing here writes it again.
            kept = [a.clone() if is_index(a) else a for a in arguments]
            cuda.current.queue(lambda: original(*kept))

        return queue

    for name, original in originals.items():
        setattr(store_module, name, delay(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(store_module, name, original)


def is_index(argument: object) -> bool:
    return isinstance(argument, torch.Tensor) and argument.dtype in (torch.int32, torch.int64)
