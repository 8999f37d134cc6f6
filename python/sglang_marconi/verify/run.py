"""A whole run: calibrate, send each workload warm and cold, judge, and have it happen again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from sglang_marconi.verify.calibration import Calibrated, Progress, calibrate
from sglang_marconi.verify.comparison import Answer, compare
from sglang_marconi.verify.noise import Noise
from sglang_marconi.verify.reproduction import Steps, Wrong, reproduce
from sglang_marconi.verify.sender import Seen, Sender, all_of
from sglang_marconi.verify.server import Request, Server
from sglang_marconi.verify.verdict import (
    Compared,
    Report,
    Verdict,
    WorkloadResult,
    judge,
    of_all,
    of_workload,
)
from sglang_marconi.verify.workloads import REPLY, WORKLOADS, Skipped, Workload

_COMPANY = 8
_ENOUGH = 3
"""After so many wrong answers no cold one is doubted any more."""
_BEYOND_DOUBT = 10.0
"""So many times what noise may be."""


async def verify(server: Server, seed: int, progress: Progress) -> Report:
    """Ask and judge an entered server; the same seed sends the same prompts.

    Raises ``VerifyError`` where nothing can be said.
    """
    ids = await server.ordinary_ids()
    calibrated = await calibrate(server, ids, seed, progress)
    return await examine(server, ids, calibrated, seed=seed, progress=progress)


async def examine(
    server: Server,
    ids: Sequence[int],
    calibrated: Calibrated,
    *,
    seed: int,
    progress: Progress,
    workloads: Sequence[Workload] = WORKLOADS,
) -> Report:
    """Like ``verify``, of a server whose noise is known."""
    run = _Run(server, ids, seed, calibrated.noise, progress)
    for workload in workloads:
        await run.send(workload)
    await run.measure_noise_again()
    results = run.results()
    found = msgspec.structs.replace(calibrated.found, bound=run.noise.bound())
    verdict, summary = of_all(results, found)
    reproduction = None
    if (wrong := run.first_wrong()) is not None:
        progress("reproduction", 0, None)
        reproduction = await reproduce(server, wrong)
    return Report(
        verdict=verdict,
        summary=summary,
        server={"url": server.url, **msgspec.to_builtins(server.facts)},
        cold="flush" if server.flushes else "salt",
        seed=seed,
        calibration=found,
        workloads=results,
        reproduction=reproduction,
    )


class _Asked(NamedTuple):
    """An answer, cold ones to its request, and all steps of its workload."""

    seen: Seen
    references: list[Answer]
    steps: Steps


class _Run:
    """``noise``: what is known of it so far."""

    def __init__(
        self, server: Server, ids: Sequence[int], seed: int, noise: Noise, progress: Progress
    ) -> None:
        self.noise = noise
        self._server = server
        self._ids = ids
        self._seed = seed
        self._progress = progress
        self._asked: dict[str, list[_Asked]] = {}
        self._notes: dict[str, str] = {}
        self._skipped: set[str] = set()
        self._wrong = 0

    async def send(self, workload: Workload) -> None:
        """Send a workload, then its requests cold."""
        send = Sender(self._server, self._ids, f"{self._seed} {workload.name}")
        asked = self._asked[workload.name] = []
        self._progress(workload.name, 0, None)
        await self._server.empty()
        try:
            self._notes[workload.name] = await workload.send(send)
        except Skipped as skipped:
            self._notes[workload.name] = str(skipped)
            self._skipped.add(workload.name)
            return
        cold: dict[Request, list[Answer]] = {}
        for number, seen in enumerate(send.seen, 1):
            request = msgspec.structs.replace(seen.request, log_probabilities=True)
            if request not in cold:
                cold[request] = [await self._server.cold(request)]
            one = _Asked(seen, cold[request], send.steps)
            if self._judge(one).excess > 1 and self._wrong < _ENOUGH:
                # An unusual cold answer is no proof: it is asked for again, alone and in company.
                beside = await self._apart([request])
                cold[request] += [await self._server.cold(request), *filter(_is_cold, beside)]
            self._wrong += self._judge(one).excess > 1
            asked.append(one)
            self._progress(workload.name, number, len(send.seen))

    async def measure_noise_again(self) -> None:
        """Where noise could explain what differs, learn it from as many answers as were judged."""
        asked = [one for of_one in self._asked.values() for one in of_one]
        excesses = [self._judge(one).excess for one in asked]
        if not any(1 < excess < _BEYOND_DOUBT for excess in excesses):
            return
        cold = {one.seen.request: one.references[0] for one in asked}
        answers = await self._apart(list(cold))
        self.noise = self.noise.with_more(
            compare(answer, reference).shifts
            for answer, reference in zip(answers, cold.values(), strict=True)
            if _is_cold(answer)
        )

    def results(self) -> list[WorkloadResult]:
        return [
            WorkloadResult(name=name, verdict=Verdict.SKIPPED, note=self._notes[name])
            if name in self._skipped
            else of_workload(name, list(map(self._judge, asked)), self._notes[name])
            for name, asked in self._asked.items()
        ]

    def first_wrong(self) -> Wrong | None:
        for name, asked in self._asked.items():
            for one in asked:
                if self._judge(one).excess > 1:
                    expected = one.references[0]
                    is_wrong = partial(self._is_wrong, expected)
                    return Wrong(name, one.seen, expected, one.steps, is_wrong)
        return None

    def _judge(self, one: _Asked) -> Compared:
        return judge(one.seen.answer, one.references, len(one.seen.request.prompt), self.noise)

    def _is_wrong(self, expected: Answer, answer: Answer) -> bool:
        return judge(answer, [expected], 0, self.noise).excess > 1

    async def _apart(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in company: of each other, and of as many more as are missing.

        They are cold where the server knows salts.
        """
        answers: list[Answer] = []
        filling = Sender(self._server, self._ids, f"{self._seed} company")
        for start in range(0, len(requests), _COMPANY):
            some = requests[start : start + _COMPANY]
            more = [
                Request(filling.tokens(filling.unit), REPLY) for _ in range(_COMPANY - len(some))
            ]
            answers += (await all_of(map(self._server.apart, [*some, *more])))[: len(some)]
        return answers


def _is_cold(answer: Answer) -> bool:
    return not answer.cached
