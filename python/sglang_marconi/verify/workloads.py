"""What is sent: each workload reuses in a way that can go wrong of its own.

Lengths are in tokens and odd on purpose, so that prefixes end inside KV pages and kernels' chunks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import NamedTuple

from sglang_marconi.verify.comparison import Answer
from sglang_marconi.verify.sender import Sender, Sent
from sglang_marconi.verify.server import Request

REPLY = 12
_LONG_REPLY = 40
_FLOOD_SECONDS = 20.0
_FLOODED_AT_ONCE = 16


class Skipped(Exception):
    """The workload says nothing about this server; the message says why."""


class Workload(NamedTuple):
    """``send`` sends it and returns a note, or nothing. Raises ``Skipped``."""

    name: str
    send: Callable[[Sender], Awaitable[str]]


async def _branching(send: Sender) -> str:
    """Prompts that leave a shared prefix, some of them further on than others."""
    prefix = send.tokens(3 * send.unit + 5)
    longer = prefix + send.tokens(send.unit + 37)
    prompts = [prefix + send.tokens(20 + 13 * number) for number in range(3)]
    prompts += [longer + send.tokens(25 + 11 * number) for number in range(3)]
    for _ in range(2):
        for prompt in prompts:
            await send.ask(Request(prompt, REPLY))
    return ""


async def _repeated(send: Sender) -> str:
    """The same prompt again and again: one as long as whole KV pages, and one not."""
    for prompt in (send.tokens(2 * send.unit), send.tokens(3 * send.unit + 29)):
        for _ in range(4):
            await send.ask(Request(prompt, REPLY))
    return ""


async def _turns(send: Sender) -> str:
    """Conversations whose prompts hold what was replied before, and one that leaves it out."""
    for keeps_replies in (True, False):
        prompt = send.tokens(send.unit + 23)
        for _ in range(4):
            answer = await send.ask(Request(prompt, REPLY))
            reply = tuple(answer.tokens) if keeps_replies else ()
            prompt = prompt + reply + send.tokens(send.unit // 2 + 9)
    return ""


async def _chunked(send: Sender) -> str:
    """Prompts whose prefill takes several passes, and that leave each other in the second one."""
    chunk = send.facts.chunk
    if chunk is None:
        raise Skipped("prefills are not chunked, or the server does not say where")
    prefix = send.tokens(chunk + min(chunk, 2 * send.unit) // 2 + 3)
    prompts = [prefix + send.tokens(send.unit + 21 * number) for number in range(3)]
    if len(prompts[-1]) + 2 * REPLY + send.unit > send.facts.longest:
        raise Skipped(f"chunks of {chunk} tokens are as long as a prompt may be")
    answers = [await send.ask(Request(prompt, REPLY)) for prompt in prompts]
    await send.ask(Request(_next(prompts[0], answers[0], send.tokens(31)), REPLY))
    await send.ask(Request(prompts[1], REPLY))
    return ""


async def _concurrent(send: Sender) -> str:
    """Requests of several prefixes at once, their next turns, and the same ones again."""
    prefixes = [send.tokens(2 * send.unit + 17 * number + 3) for number in range(3)]
    requests = [
        Request(prefix + send.tokens(20 + 5 * number), REPLY)
        for number in range(3)
        for prefix in prefixes
    ]
    answers = await send.together(requests)
    await send.together(_next_turns(send, requests, answers))
    for _ in range(2):
        await send.together(requests)
    return ""


async def _aborted(send: Sender) -> str:
    """Requests whose client hangs up, in the queue, in the prefill or later, beside others."""
    prefix = send.tokens(4 * send.unit + 11)
    requests = [Request(prefix + send.tokens(30 + number), _LONG_REPLY) for number in range(3)]
    # The first takes about as long as those that will be broken off.
    seconds = await send.timed(requests[0])
    others = [Request(prefix + send.tokens(25), REPLY) for _ in range(2)]
    for share in (0.1, 0.4, 0.8):
        broken_off = [Sent(request, 0.0, seconds * share) for request in requests]
        await send.together(others, broken_off=broken_off)
    for request in requests:
        await send.ask(request)
    return ""


async def _stop_tokens(send: Sender) -> str:
    """Replies that end before the scheduler can foresee it, and the turns after them."""
    for number in range(2):
        prompt = send.tokens(send.unit + 26 + 31 * number)
        foreseen = await send.ask(Request(prompt, 2 * REPLY))
        later = [
            token
            for place, token in enumerate(foreseen.tokens[: REPLY + 4])
            if place >= 4 and token not in foreseen.tokens[:place]
        ]
        if not later:
            raise Skipped("replies repeat a few tokens, so that none can be chosen to stop at")
        beside = Request(send.tokens(send.unit), 2 * REPLY)
        stopped = Request(prompt, 2 * REPLY, stop=(later[0],))
        answer, _ = await send.together([stopped, beside])
        await send.ask(Request(_next(prompt, answer, send.tokens(40)), REPLY))
    return ""


async def _mixed(send: Sender) -> str:
    """Prompts that arrive while others decode, without log probabilities; then, with them, more.

    SGLang mixes prefill and decode in no batch that has to return log probabilities. What such
    batches leave behind the next turns reuse. Where the server does mix, there are more of them.
    """
    count = 24 if send.facts.mixes else 10
    prefixes = [send.tokens(send.unit + 29 * number + 7) for number in range(3)]
    requests = [
        Request(
            prefixes[number % 3] + send.tokens(send.number(5, 6 * send.unit)),
            send.number(3, 40),
            log_probabilities=False,
        )
        for number in range(count)
    ]
    answers = await send.together(requests, at_once=count // 2)
    await send.together(_next_turns(send, requests, answers), at_once=4)
    # Again, now that prompts have been seen to part.
    await send.together(requests[::3], at_once=count // 2)
    return ""


async def _eviction(send: Sender) -> str:
    """Conversations that go on after so many others that the cache had to let go of some."""
    first = [Request(send.tokens(2 * send.unit + 13 * number), REPLY) for number in range(4)]
    answers = [await send.ask(request) for request in first]
    turns = _next_turns(send, first, answers)
    # As long as nothing is short, it is all there.
    if _is_gone(await send.ask(turns[0]), first[0]):
        return "a conversation's next turn hardly reuses it, so that none can be missed"
    others, gone = await _flood(send)
    for turn, request in zip(turns[1:], first[1:], strict=True):
        gone.append(_is_gone(await send.ask(turn), request))
    return f"{sum(gone)} of {len(gone)} conversations were gone when they went on, of {others}"


async def _flood(send: Sender) -> tuple[int, list[bool]]:
    """Send other conversations until two are gone of those that go on, or for so long.

    Returns how many, and whether they were gone.
    """
    slots = send.facts.state_slots
    length = send.unit + 20
    if slots is None:
        # Recurrent states are short before KV is; without them only long prompts fill the memory.
        length = min(send.facts.chunk or 2048, 2048, send.facts.longest - 2 * send.unit)
    start = perf_counter()
    silent: list[tuple[Request, Answer]] = []
    gone: list[bool] = []
    while sum(gone) < 2 and perf_counter() - start < _FLOOD_SECONDS:
        many = min(_FLOODED_AT_ONCE, send.facts.running)
        requests = [Request(send.tokens(length), 2) for _ in range(many)]
        silent += zip(requests, await send.together(requests, keep=False), strict=True)
        if slots is not None and len(silent) < slots // 2 and not gone:
            continue
        # Which go first is the server's policy: the oldest, or, where it has learned that old
        # ones go on, any other. So the oldest goes on, then one at random.
        chosen = send.number(0, len(silent) - 1) if len(gone) % 2 else 0
        request, answer = silent.pop(chosen)
        [turn] = _next_turns(send, [request], [answer])
        gone.append(_is_gone(await send.ask(turn), request))
    return len(silent) + len(gone), gone


def _is_gone(answer: Answer, earlier: Request) -> bool:
    return answer.cached < len(earlier.prompt) // 2


def _next(prompt: tuple[int, ...], answer: Answer, tokens: tuple[int, ...]) -> tuple[int, ...]:
    return prompt + tuple(answer.tokens) + tokens


def _next_turns(
    send: Sender, requests: Sequence[Request], answers: Sequence[Answer]
) -> list[Request]:
    return [
        Request(_next(request.prompt, answer, send.tokens(send.unit // 3 + 4)), REPLY)
        for request, answer in zip(requests, answers, strict=True)
    ]


WORKLOADS = (
    Workload("branching", _branching),
    Workload("repeated", _repeated),
    Workload("turns", _turns),
    Workload("chunked", _chunked),
    Workload("concurrent", _concurrent),
    Workload("aborted", _aborted),
    Workload("stop tokens", _stop_tokens),
    Workload("mixed", _mixed),
    Workload("eviction", _eviction),
)
