"""What answers vary by when nothing is reused, and whether a wrong state would be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sglang_marconi.verify.comparison import Answer, Comparison, compare
from sglang_marconi.verify.noise import Noise
from sglang_marconi.verify.sender import Sender, all_of
from sglang_marconi.verify.server import Request, Server
from sglang_marconi.verify.verdict import Calibration, Control

NAME = "calibration"

_REPLY = 16
_KEPT = (25, 6)
"""How many tokens at a prompt's end stay as they are where what is before them is made wrong."""
_REREAD = (5, 10)
"""After how many tokens of a reply the rest is asked for again."""
_COMPANIES = (3, 10)

Progress = Callable[[str, int, int | None], None]
"""Told what is being done, how much of it is, and of how much if that is known."""


class Calibrated(NamedTuple):
    """What warm answers are judged by, and what is said of it."""

    noise: Noise
    found: Calibration


async def calibrate(
    server: Server, ids: Sequence[int], seed: int, progress: Progress
) -> Calibrated:
    """Ask cold: twice, in company, with the reply read again, and with the prompt made wrong.

    Raises ``VerifyError`` as ``Server.cold`` does.
    """
    return await _Calibration(server, ids, seed, progress).run()


class _Calibration:
    def __init__(self, server: Server, ids: Sequence[int], seed: int, progress: Progress) -> None:
        self._server = server
        self._progress = progress
        self._done = 0
        send = Sender(server, ids, f"{seed} {NAME}")
        self._tokens = send.tokens
        unit = send.unit
        lengths = [unit + 23, 2 * unit + 57, 3 * unit + 5, 3 * unit + 90]
        self._requests = [Request(self._tokens(length), _REPLY) for length in lengths]
        # Beside others its prefill is cut elsewhere than alone.
        chunk = server.facts.chunk or 0
        long = chunk + chunk // 4 + unit
        self._longer = (
            [Request(self._tokens(long), _REPLY)]
            if unit < long < server.facts.longest - _REPLY
            else []
        )
        short = len(self._requests)
        both = short + len(self._longer)
        self._total = 2 * both + sum(_COMPANIES) + short * (len(_REREAD) + 2 * len(_KEPT))

    async def run(self) -> Calibrated:
        asked = [*self._requests, *self._longer]
        alone = [await self._cold(request) for request in asked]
        again = [
            compare(await self._cold(request), answer)
            for request, answer in zip(asked, alone, strict=True)
        ]
        company = [
            comparison for size in _COMPANIES for comparison in await self._beside(size, alone)
        ]
        pairs = list(zip(self._requests, alone, strict=False))
        reread = [await self._reread(*pair, after) for pair in pairs for after in _REREAD]
        noise = Noise(comparison.shifts for comparison in (*again, *company, *reread))
        other = [await self._other_prefix(*pair, kept) for pair in pairs for kept in _KEPT]
        twice = [await self._token_twice(*pair, kept) for pair in pairs for kept in _KEPT]
        found = Calibration(
            again=_largest(again),
            company=_largest(company),
            reread=_largest(reread),
            bound=noise.bound(),
            other_prefix=_control(other, noise),
            token_twice=_control(twice, noise),
        )
        return Calibrated(noise, found)

    async def _cold(self, request: Request) -> Answer:
        answer = await self._server.cold(request)
        self._advance(1)
        return answer

    async def _beside(self, size: int, alone: Sequence[Answer]) -> list[Comparison]:
        """The prompts together, with more beside them to make up the number."""
        requests = [*self._requests, *self._longer][-size:]
        more = [
            Request(self._tokens(len(self._requests[0].prompt)), _REPLY)
            for _ in range(size - len(requests))
        ]
        await self._server.empty()
        answers = await all_of(map(self._server.cold_beside, [*requests, *more]))
        self._advance(size)
        return list(map(compare, answers, alone[-len(requests) :]))

    async def _reread(self, request: Request, answer: Answer, after: int) -> Comparison:
        prompt = request.prompt + tuple(answer.tokens[:after])
        rest = Answer(answer.tokens[after:], answer.likeliest[after:], 0)
        return compare(await self._cold(Request(prompt, request.tokens - after)), rest)

    async def _other_prefix(self, request: Request, answer: Answer, kept: int) -> Comparison:
        prefix = self._tokens(len(request.prompt) - kept)
        return compare(
            await self._cold(Request(prefix + request.prompt[-kept:], request.tokens)), answer
        )

    async def _token_twice(self, request: Request, answer: Answer, kept: int) -> Comparison:
        prefix, rest = request.prompt[:-kept], request.prompt[-kept:]
        return compare(await self._cold(Request((*prefix, rest[0], *rest), request.tokens)), answer)

    def _advance(self, count: int) -> None:
        self._done += count
        self._progress(NAME, self._done, self._total)


def _largest(comparisons: Sequence[Comparison]) -> float:
    return max(comparison.largest for comparison in comparisons)


def _control(comparisons: Sequence[Comparison], noise: Noise) -> Control:
    found = sum(noise.excess(comparison.shifts) > 1 for comparison in comparisons)
    return Control(found, len(comparisons))
