"""A whole run: calibrate, send each workload warm and cold, judge, and have it happen again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from sglang_marconi.verify.calibration import Calibrated, Progress, calibrate
from sglang_marconi.verify.comparison import Answer
from sglang_marconi.verify.noise import Noise
from sglang_marconi.verify.reproduction import Wrong, reproduce
from sglang_marconi.verify.sender import Sender, all_of
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

_COMPANY = 7
_ENOUGH = 3
"""After so many wrong answers no cold one is doubted any more."""


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
    results = [await run.workload(workload) for workload in workloads]
    verdict, summary = of_all(results, calibrated.found)
    reproduction = None
    if run.wrong is not None:
        progress("reproduction", 0, None)
        reproduction = await reproduce(server, run.wrong)
    return Report(
        verdict=verdict,
        summary=summary,
        server={"url": server.url, **msgspec.to_builtins(server.facts)},
        cold="flush" if server.flushes else "salt",
        seed=seed,
        calibration=calibrated.found,
        workloads=results,
        reproduction=reproduction,
    )


class _Run:
    """``wrong``: the first wrong answer so far."""

    def __init__(
        self, server: Server, ids: Sequence[int], seed: int, noise: Noise, progress: Progress
    ) -> None:
        self._server = server
        self._ids = ids
        self._seed = seed
        self._noise = noise
        self._progress = progress
        self._wrong = 0
        self.wrong: Wrong | None = None

    async def workload(self, workload: Workload) -> WorkloadResult:
        send = Sender(self._server, self._ids, f"{self._seed} {workload.name}")
        self._progress(workload.name, 0, None)
        await self._server.empty()
        try:
            note = await workload.send(send)
        except Skipped as skipped:
            return WorkloadResult(name=workload.name, verdict=Verdict.SKIPPED, note=str(skipped))
        references: dict[Request, Answer] = {}
        compared = []
        for number, seen in enumerate(send.seen, 1):
            request = msgspec.structs.replace(seen.request, log_probabilities=True)
            if request not in references:
                references[request] = await self._server.cold(request)
            expected = references[request]
            one = self._judge(seen.answer, [expected], request)
            if one.excess > 1 and self._wrong < _ENOUGH:
                # An unusual cold answer is no proof: it is asked for again, alone and in company.
                others = [await self._server.cold(request), await self._beside(send, request)]
                one = self._judge(seen.answer, [expected, *others], request)
            self._wrong += one.excess > 1
            if one.excess > 1 and self.wrong is None:
                self.wrong = Wrong(
                    workload.name,
                    seen,
                    expected,
                    send.steps,
                    partial(self._is_wrong, expected),
                )
            compared.append(one)
            self._progress(workload.name, number, len(send.seen))
        return of_workload(workload.name, compared, note)

    def _judge(self, answer: Answer, references: Sequence[Answer], request: Request) -> Compared:
        return judge(answer, references, len(request.prompt), self._noise)

    def _is_wrong(self, expected: Answer, answer: Answer) -> bool:
        return judge(answer, [expected], 0, self._noise).excess > 1

    async def _beside(self, send: Sender, request: Request) -> Answer:
        """The cold answer in company."""
        await self._server.empty()
        others = [Request(send.tokens(send.unit), REPLY) for _ in range(_COMPANY)]
        answer, *_ = await all_of(map(self._server.cold_beside, [request, *others]))
        return answer
