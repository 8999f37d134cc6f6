"""Which of the store's work on a GPU waits for which, on the streams of requests and of moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from sglang_marconi.pool.arena import Runs


class PageOrder:
    """Orders work on the pages of one buffer that runs on two streams.

    - **Requests' stream**: what reads or writes their slots, too. ``stream``, or the one that is
      current as the work is queued, where ``stream`` is ``None``. It comes after all that was
      queued there, and on the current stream, before it; what is queued there later comes after
      it. Work queued later on a current stream that is *not* the requests' does not wait for it.
    - **Moves' stream**, which the order makes where there are moves: copies between pages on the
      device and on the host.

    Work on the same pages is done in the order in which it was queued, whichever stream it is on;
    apart from that neither stream waits for the other, and the host for neither. Pages may
    therefore be handed on while work on them is under way.

    Args:
        pages: how many there are.
        device: that they are on.
        moves: whether there are any.
        cuda: ``torch.cuda``, or what stands in for it; ``None``, and nothing to order, on a CPU.
    """

    def __init__(self, pages: int, *, device: torch.device, moves: bool, cuda: Any | None) -> None:
        self.stream: torch.cuda.Stream | None = None
        self._cuda: Any = cuda
        self._device = device
        self._moves_stream = cuda.Stream(device) if moves and cuda is not None else None
        self._requests = _Progress(pages)
        self._moves = _Progress(pages)

    @contextmanager
    def beside_requests(self, *pages: Runs, slots: torch.Tensor | None = None) -> Iterator[None]:
        """What is queued inside works on these pages, on the stream of requests.

        ``slots``: a tensor made on the current stream that it reads.
        """
        if self._cuda is None:
            yield
            return
        current = self._cuda.current_stream(self._device)
        stream = current if self.stream is None else self.stream
        other = stream != current
        if other:
            stream.wait_stream(current)
            if slots is not None and slots.is_cuda:
                # Its memory must not be used for something else before this stream has read it.
                slots.record_stream(stream)
        if self._moves_stream is not None:
            self._moves.hold_back(stream, pages)
        with self._cuda.stream(stream) if other else nullcontext():
            yield
            if self._moves_stream is not None:
                self._requests.advance(self._cuda.Event(), stream, pages)

    @contextmanager
    def as_move(self, pages: Runs) -> Iterator[None]:
        """What is queued inside works on these pages, beside requests."""
        if self._moves_stream is None:
            yield
            return
        self._requests.hold_back(self._moves_stream, [pages])
        with self._cuda.stream(self._moves_stream):
            yield
            self._moves.advance(self._cuda.Event(), self._moves_stream, [pages])

    def finish(self) -> None:
        """The host waits for all that was queued."""
        if self._cuda is not None:
            self._cuda.synchronize(self._device)


class _Progress:
    """The pieces of work on one stream, numbered from 1: which pages each was the last to touch."""

    def __init__(self, pages: int) -> None:
        # By page, the last piece of work on it.
        self._last = [0] * pages
        self._number = 0
        # Up to this one the other stream has waited for them, or they have ended.
        self._behind = 0
        self._events: deque[tuple[int, Any]] = deque()

    def hold_back(self, stream: Any, pages: Iterable[Runs]) -> None:
        """The other stream goes on once the work on these pages is done."""
        number = max(max(self._last[run.start : run.stop]) for runs in pages for run in runs)
        if number > self._behind:
            stream.wait_event(next(event for at, event in self._events if at == number))
            self._settle(number)

    def advance(self, event: Any, stream: Any, pages: Iterable[Runs]) -> None:
        """One more piece of work, on these pages, was queued on the stream."""
        self._number += 1
        for runs in pages:
            for run in runs:
                self._last[run.start : run.stop] = [self._number] * len(run)
        event.record(stream)
        self._events.append((self._number, event))
        while self._events and self._events[0][1].query():
            self._settle(self._events[0][0])

    def _settle(self, number: int) -> None:
        self._behind = number
        while self._events and self._events[0][0] <= number:
            self._events.popleft()
