"""The shortest way, found by trying, to have a server answer wrong again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

from sglang_marconi.verify.comparison import Answer, compare
from sglang_marconi.verify.sender import Seen, Sent, send_step
from sglang_marconi.verify.server import Request, Server
from sglang_marconi.verify.verdict import Call, Reproduction

_SECONDS = 30.0
"""For shortening it."""
_TRIES = 3
_RELATED = 8
"""Prompts that share so many tokens at their start may share a state."""

Steps = Sequence[Sequence[Sent]]


class Wrong(NamedTuple):
    """A wrong answer, what an empty cache answers, and all steps up to it.

    ``is_wrong`` says of any answer to its request whether noise does not explain it.
    """

    workload: str
    seen: Seen
    expected: Answer
    steps: Steps
    is_wrong: Callable[[Answer], bool]


async def reproduce(server: Server, wrong: Wrong) -> Reproduction:
    """Send what led to the wrong answer again, and less and less of it while it still does."""
    request = wrong.seen.request
    as_sent = wrong.steps[: wrong.seen.step + 1]
    alone = [[Sent(request)]]
    before = [[sent._replace(after=0.0)] for step in as_sent[:-1] for sent in step]
    related = [step for step in before if _related(step[0].request, request)]
    # What was sent at once meets in another way each time.
    together = [([*as_sent[:-1], *alone], 0), (as_sent, wrong.seen.call)] * _TRIES
    for steps, call in (([*related, *alone], 0), ([*before, *alone], 0), *together):
        answer = await replay(server, steps, call)
        if wrong.is_wrong(answer):
            shorter, answer = await _shorten(server, wrong, steps, call, answer)
            return _reproduction(server, wrong, shorter, call, answer, confirmed=True)
    return _reproduction(
        server, wrong, as_sent, wrong.seen.call, wrong.seen.answer, confirmed=False
    )


async def replay(server: Server, steps: Steps, call: int) -> Answer:
    """Send steps from an empty cache on; the answer to a call of the last one."""
    await server.empty()
    for step in steps[:-1]:
        await send_step(server, step)
    answer = (await send_step(server, steps[-1]))[call]
    assert answer is not None, "the call is one that was broken off"
    return answer


async def _shorten(
    server: Server, wrong: Wrong, steps: Steps, call: int, answer: Answer
) -> tuple[Steps, Answer]:
    """Leave out steps before the last, many at a time, then one by one."""
    start = perf_counter()
    many = len(steps) - 1
    while many:
        at = 0
        while at < len(steps) - 1:
            if perf_counter() - start > _SECONDS:
                return steps, answer
            fewer = [*steps[:at], *steps[min(at + many, len(steps) - 1) :]]
            again = await replay(server, fewer, call)
            if wrong.is_wrong(again):
                steps, answer = fewer, again
            else:
                at += many
        many //= 2
    return steps, answer


def _related(one: Request, other: Request) -> bool:
    return one.prompt[:_RELATED] == other.prompt[:_RELATED]


def _reproduction(
    server: Server, wrong: Wrong, steps: Steps, call: int, answer: Answer, *, confirmed: bool
) -> Reproduction:
    comparison = compare(answer, wrong.expected)
    place = comparison.first_difference
    if place is None:
        place = comparison.shifts.index(comparison.largest)
    return Reproduction(
        workload=wrong.workload,
        server=server.url,
        steps=[
            [
                Call(body=server.body(sent.request), after=sent.after, hang_up=sent.hang_up)
                for sent in step
            ]
            for step in steps
        ],
        wrong=call,
        expected=wrong.expected,
        got=answer,
        place=place,
        confirmed=confirmed,
    )
