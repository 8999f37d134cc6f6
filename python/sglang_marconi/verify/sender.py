"""What workloads send through, which keeps what was sent and what came back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterable, Sequence
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

from sglang_marconi.verify.comparison import Answer
from sglang_marconi.verify.server import Request, Server

T = TypeVar("T")


class Sent(NamedTuple):
    """A request of a step, sent ``after`` so many seconds; ``hang_up``: when to break it off."""

    request: Request
    after: float = 0.0
    hang_up: float | None = None


class Seen(NamedTuple):
    """An answer to be compared, and where its request stands: a step, and a call of it."""

    request: Request
    answer: Answer
    step: int
    call: int


class Sender:
    """One workload's conversation with a server.

    ``steps``: what was sent, those of a step at once. ``seen``: the answers to compare.
    """

    def __init__(self, server: Server, ids: Sequence[int], seed: str) -> None:
        self.server = server
        self.facts = server.facts
        self.unit = max(64, self.facts.page)
        """Tokens: SGLang keeps states on grids of 64, and whole KV pages."""
        self.steps: list[list[Sent]] = []
        self.seen: list[Seen] = []
        self._ids = ids
        self._random = random.Random(seed)

    def tokens(self, count: int) -> tuple[int, ...]:
        """So many random ids."""
        return tuple(self._random.choices(self._ids, k=count))

    def number(self, least: int, most: int) -> int:
        """A random one of those."""
        return self._random.randint(least, most)

    async def ask(self, request: Request, *, keep: bool = True) -> Answer:
        """Send a request alone; ``keep``: its answer is to be compared."""
        [answer] = await self.together([request], keep=keep)
        return answer

    async def timed(self, request: Request) -> float:
        """Send a request alone; how long it took, in seconds."""
        start = perf_counter()
        await self.ask(request)
        return perf_counter() - start

    async def together(
        self,
        requests: Sequence[Request],
        *,
        at_once: int | None = None,
        broken_off: Sequence[Sent] = (),
        keep: bool = True,
    ) -> list[Answer]:
        """Send requests at once, or as many at a time; ``broken_off`` are sent beside them."""
        places = asyncio.Semaphore(at_once or len(requests))
        start = perf_counter()

        async def send(request: Request) -> tuple[Sent, Answer | None]:
            async with places:
                sent = Sent(request, perf_counter() - start if at_once else 0.0)
                return sent, await self.server.generate(request)

        async def break_off(sent: Sent) -> tuple[Sent, Answer | None]:
            return sent, await send_one(self.server, sent)

        done = await all_of([*map(send, requests), *map(break_off, broken_off)])
        step = len(self.steps)
        self.steps.append([sent for sent, _ in done])
        seen = [
            Seen(sent.request, answer, step, call)
            for call, (sent, answer) in enumerate(done)
            if answer is not None
        ]
        if keep:
            self.seen += seen
        return [one.answer for one in seen]


async def send_step(server: Server, step: Sequence[Sent]) -> list[Answer | None]:
    """Send the requests of a step; what was broken off has no answer."""
    return await all_of(send_one(server, sent) for sent in step)


async def send_one(server: Server, sent: Sent) -> Answer | None:
    await asyncio.sleep(sent.after)
    if sent.hang_up is None:
        return await server.generate(sent.request)
    await server.hang_up(sent.request, sent.hang_up)
    return None


async def all_of(asked: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Everything asked at once, answered; the first error drops the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in asked]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
