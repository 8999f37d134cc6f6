"""One server under mixed traffic: driven, watched, and judged at the end."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from load_traffic import KINDS, BadAnswerError, Caller, Kind, Sample, generation, token_ids
from local_server import LocalServer
from process_memory import Point, halves, resident_bytes, slope

CHECKS = {
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE": "1",
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1",
    "SGLANG_ENABLE_TREE_CACHE_SANITY_CHECK": "1",
    "SGLANG_CHECK_KV_PAGE_INVARIANTS": "1",
}
"""SGLang's environment: its scheduler ends at the first leak, busy or idle, and says where."""

_SERVED = (
    # What requests leave is many times as much: caches evict and requests are retracted.
    *("--max-total-tokens", "2048", "--max-mamba-cache-size", "26"),
    *("--max-running-requests", "5", "--chunked-prefill-size", "256"),
    # A model with random weights would write spaces for ever.
    "--constrained-json-disable-any-whitespace",
    "--enable-cache-report",
)

GROWTH = 0.003
"""Of the memory at half time: how much the second half may add by its slope.

What fills up once (caches, allocators' arenas, lazily imported modules) does so in the first
half. The server's processes have some 3.6 GB, of which the second half adds 0.03 to 0.12 %,
with SGLang's own cache as much. This is 11 MB: 10 KB an action in ten minutes, or a state of the
small model lost in one of 15.
"""

_FILLED = 120
"""Seconds of traffic after which what fills up once is full."""

_GROWTH_UNTIL_FILLED = 0.01
"""As `GROWTH`, of a shorter run, whose second half still fills up (0.3 % in 25 seconds)."""

_CLIENTS = 6
_ROUND = 40
_QUIET = 1.5
_MOST_FAILURES = 30
_LOSSY_TIE = 0.5
"""Where a lossy checkpoint's reply first differs from a cold one, the two tokens' log
probabilities may be this far apart in the cold one."""


class Plan(NamedTuple):
    """What to do. `models` are two directories whose weights differ; traffic lasts so many
    `seconds`, and longer on a machine too slow for `least_actions` in them; `samples` answers
    are compared with cold ones; lossy: checkpoints may be."""

    models: tuple[Path, Path]
    seconds: float
    least_actions: int = 0
    most_actions: int = 100_000
    samples: int = 120
    seed: int = 0
    lossy: bool = False


@dataclass
class Report:
    """What happened; `failures` says why the server did not pass, and is empty if it did."""

    sent: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    memory: list[Point] = field(default_factory=list)
    compared: int = 0
    different: int = 0
    failures: list[str] = field(default_factory=list)

    def fail(self, kind: str, error: object) -> None:
        self.failed[kind] += 1
        self.failures.append(f"{kind}: {error}")

    def growth(self) -> tuple[float, float]:
        """What each half added to the memory by its slope, as a share of that at half time."""
        first, second = (half or self.memory[:1] for half in halves(self.memory))
        at_half = second[0].resident
        shares = (slope(h) * (h[-1].seconds - h[0].seconds) / at_half for h in (first, second))
        return next(shares), next(shares)


async def put_under_load(server: LocalServer, plan: Plan) -> Report:
    """Send traffic for the planned time, then compare the sampled answers with cold ones.

    The server must hold the weights of the first model.
    """
    report = Report()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
        caller = Caller(client, random.Random(plan.seed), plan.samples)
        weights = _Weights(caller, plan)
        await weights.load(0)
        async with _watched(server.pid, report):
            await _drive(caller, weights, plan, report)
        report.totals += caller.totals
        if not report.failures:
            await _compare(caller, weights, plan, report)
        await _ends_well(client, report)
    _read_log(server.log_path, report)
    allowed = GROWTH if plan.seconds >= _FILLED else _GROWTH_UNTIL_FILLED
    if (growth := report.growth()[1]) > allowed:
        report.fail("memory", f"the second half added {growth:.1%}")
    return report


@asynccontextmanager
async def _watched(pid: int, report: Report) -> AsyncIterator[None]:
    """Record the server's memory every second."""

    async def watch() -> None:
        while True:
            report.memory.append(Point(time.monotonic(), resident_bytes(pid)))
            await asyncio.sleep(1)

    task = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _drive(caller: Caller, weights: "_Weights", plan: Plan, report: Report) -> None:
    """Rounds of traffic; between them the server is idle, and looks for leaks."""
    deadline = time.monotonic() + plan.seconds
    chooser = random.Random(plan.seed)
    free = asyncio.Semaphore(_CLIENTS)

    def goes_on() -> bool:
        early = time.monotonic() < deadline or report.sent.total() < plan.least_actions
        return early and len(report.failures) < _MOST_FAILURES

    async def act(kind: Kind, number: int) -> None:
        async with free:
            if goes_on():
                await _attempt(
                    report, kind.name, kind.send(caller, random.Random(f"{plan.seed} {number}"))
                )

    for start in range(0, plan.most_actions, _ROUND):
        kinds = chooser.choices(KINDS, [kind.weight for kind in KINDS], k=_ROUND)
        await asyncio.gather(*(act(kind, start + at) for at, kind in enumerate(kinds)))
        await asyncio.sleep(_QUIET)
        if not goes_on():
            return
        await _attempt(report, "other weights", weights.change(chooser))


async def _attempt(report: Report, kind: str, sending: Any) -> None:
    report.sent[kind] += 1
    try:
        await sending
    except Exception as error:  # Whatever it is, it is a failure of the server.
        report.fail(kind, f"{type(error).__name__}: {error}")


class _Weights:
    """Which of the two models' weights the server computes with; versions are their numbers."""

    def __init__(self, caller: Caller, plan: Plan) -> None:
        self._caller = caller
        self._models = plan.models
        self._now = 0

    async def load(self, number: int) -> None:
        self._now = number
        body = {"model_path": str(self._models[number]), "weight_version": str(number)}
        await self._caller.expect("/update_weights_from_disk", body)

    async def change(self, chooser: random.Random) -> None:
        """While requests come in. What is cached of the old weights must not be used again."""
        asked = token_ids(chooser, 150)
        answer = await self._caller.ask(asked, 8)
        following = [*asked, *answer["output_ids"], *token_ids(chooser, 20)]
        if not await self._cached(following):
            raise BadAnswerError("the state at the end of a reply was not cached")
        others = [self._caller.ask(token_ids(chooser, 100), 8) for _ in range(3)]
        await asyncio.gather(self.load(1 - self._now), *others)
        if cached := await self._cached(following):
            raise BadAnswerError(f"{cached} tokens of other weights were reused")

    async def _cached(self, prompt: list[int]) -> int:
        answer = await self._caller.ask(prompt, 8)
        cached: int = answer["meta_info"]["cached_tokens"]
        return cached


async def _compare(caller: Caller, weights: _Weights, plan: Plan, report: Report) -> None:
    """Ask for the samples again, each of an empty cache."""
    samples = sorted(caller.samples, key=lambda sample: sample.version)
    loaded = None
    for sample in samples:
        if sample.version != loaded:
            await weights.load(int(sample.version))
            loaded = sample.version
        await caller.expect("/flush_cache?timeout=60", {})
        difference = await _difference(caller, sample)
        report.compared += 1
        report.different += difference is not None
        if difference is not None and difference > (_LOSSY_TIE if plan.lossy else 0):
            report.fail("comparison", f"a token {difference:.3f} less likely than the cold one")


async def _difference(caller: Caller, sample: Sample) -> float | None:
    """How much less likely the first token that differs is than the cold one; `None`: none."""
    fields = {"return_logprob": True, "token_ids_logprob": sorted(set(sample.reply))}
    body = generation(sample.prompt, len(sample.reply), **fields)
    answer = await caller.expect("/generate", body)
    for at, (warm, cold) in enumerate(zip(sample.reply, answer["output_ids"], strict=True)):
        if warm != cold:
            meta = answer["meta_info"]
            named = {token: value for value, token, _ in meta["output_token_ids_logprobs"][at]}
            return float(meta["output_token_logprobs"][at][0] - named[warm])
    return None


async def _ends_well(client: httpx.AsyncClient, report: Report) -> None:
    async def healthy() -> None:
        for path in ("/health", "/health_generate"):
            (await client.get(path)).raise_for_status()

    await _attempt(report, "health", healthy())


def _read_log(log: Path, report: Report) -> None:
    """Errors there, the first of each kind; they come first, as a cause of the others."""
    earlier, report.failures = report.failures, []
    lines = log.read_text(errors="replace").splitlines()
    for sign in ("leak detected", "Leak Detected", "Traceback"):
        if found := next((line for line in lines if sign in line), None):
            report.fail("log", f"{found[:300]} ({log})")
    report.failures += earlier


def arguments(settings: str | None) -> Sequence[str]:
    """Of a server with this cache and these settings; `None`: with SGLang's own cache."""
    if settings is None:
        return _SERVED
    chosen = ("--radix-cache-backend", "marconi", "--radix-eviction-policy-config", settings)
    return (*chosen, *_SERVED)
