"""Decides when each request of a stream is sent; never two of a session at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from time import perf_counter
from typing import Any

from sglang_marconi.traces.requests import Request

Send = Callable[[Request], Awaitable[None]]
"""Sends a request and returns at the end of its reply."""


async def send_at_most(concurrency: int, requests: Sequence[Request], send: Send) -> None:
    """As fast as `concurrency` requests at a time allow, in the order of the stream.

    A turn whose session still waits for a reply lets later requests of other sessions pass.
    The first exception that `send` raises ends everything that is under way.
    """
    backlog = _Backlog(requests)

    async def work() -> None:
        while (request := await backlog.take()) is not None:
            await send(request)
            await backlog.done(request)

    await _together(work() for _ in range(concurrency))


async def send_on_time(speed: float, requests: Sequence[Request], send: Send) -> None:
    """Each request at its arrival, counted from the earliest one and divided by `speed`.

    A turn whose session still waits for a reply is sent when that has ended. The first
    exception that `send` raises ends everything that is under way.
    """
    sessions: dict[str, list[Request]] = {}
    for request in requests:
        sessions.setdefault(request.session_id, []).append(request)
    earliest = min((request.arrival for request in requests), default=0.0)
    start = perf_counter()

    async def converse(turns: Sequence[Request]) -> None:
        for turn in turns:
            due = start + (turn.arrival - earliest) / speed
            await asyncio.sleep(max(due - perf_counter(), 0.0))
            await send(turn)

    await _together(converse(turns) for turns in sessions.values())


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    tasks = [asyncio.create_task(part) for part in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Backlog:
    """Hands out requests in stream order."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._waiting = list(requests)
        self._busy: set[str] = set()
        self._changed = asyncio.Condition()

    async def take(self) -> Request | None:
        """The first request whose session is idle, once there is one; None when all are taken."""
        async with self._changed:
            while self._waiting:
                for index, request in enumerate(self._waiting):
                    if request.session_id not in self._busy:
                        self._busy.add(request.session_id)
                        return self._waiting.pop(index)
                await self._changed.wait()
            return None

    async def done(self, request: Request) -> None:
        """Says that a request handed out has its reply, so its session may go on."""
        async with self._changed:
            self._busy.discard(request.session_id)
            self._changed.notify_all()
