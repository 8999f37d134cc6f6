"""Decides which request of a stream may be sent next."""

import asyncio
from collections.abc import Sequence

from sglang_marconi.replay.requests import Request


class Backlog:
    """Hands out requests in stream order, never two of a session at a time."""

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
