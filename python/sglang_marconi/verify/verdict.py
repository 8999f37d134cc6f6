"""What was found, as it is printed and written; and what follows from it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from sglang_marconi.verify.comparison import Answer, Comparison, compare
from sglang_marconi.verify.noise import ROUNDING, Noise


class Verdict(StrEnum):
    """Of a workload, and of all. ``UNSURE`` is of all only."""

    EXACT = "exact"
    NOISE = "noise"
    DIFFERS = "differs"
    NOT_REUSED = "not_reused"
    SKIPPED = "skipped"
    UNSURE = "unsure"


class Compared(NamedTuple):
    """One answer of a workload beside the cold one. ``excess``: see ``Noise.excess``."""

    cached: int
    prompt_tokens: int
    comparison: Comparison
    excess: float

    @property
    def exact(self) -> bool:
        same = self.comparison.first_difference is None
        return same and self.comparison.largest <= ROUNDING


class WorkloadResult(msgspec.Struct, frozen=True, kw_only=True):
    """One workload.

    ``requests`` were compared, ``reused`` of them resumed from the cache, with ``cached_tokens``
    of all their ``prompt_tokens``. Of ``changed`` a token differs from the cold answer's; of
    ``differ`` something does that noise does not explain. ``largest_shift`` is that of a log
    probability (nats; ``None`` where it is without bound, as where one reply ended early).
    """

    name: str
    verdict: Verdict
    requests: int = 0
    reused: int = 0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    changed: int = 0
    differ: int = 0
    largest_shift: float | None = 0.0
    note: str = ""


class Control(msgspec.Struct, frozen=True):
    """How many of so many answers to a deliberately wrong prompt would have been found."""

    found: int
    of: int


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What cold answers to the same prompts differ by: the largest shift (nats) of each kind.

    ``again``: asked twice, alone. ``company``: beside other requests. ``reread``: a part of the
    reply sent as prompt, so that a prefill computes what decoding did. ``bound``: up to where a
    single shift counts as noise. ``other_prefix`` and ``token_twice``: prompts that stand for a
    state of another prefix, and for one a token ahead.
    """

    again: float
    company: float
    reread: float
    bound: float
    other_prefix: Control
    token_twice: Control


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A body to send to ``/generate``, ``after`` so many seconds of its step.

    ``hang_up``: seconds after which the connection is closed, whatever has come.
    """

    body: dict[str, Any]
    after: float = 0.0
    hang_up: float | None = None


class Reproduction(msgspec.Struct, frozen=True, kw_only=True):
    """The first request that was answered wrong, and what has to be sent before it.

    Empty the cache, then send ``steps`` one after the other, the calls of one step at once. The
    answer to call ``wrong`` of the last step was ``got`` instead of ``expected``, which an empty
    cache gives; ``place`` is the first place where they differ. ``confirmed``: sent again, it
    happened again.
    """

    workload: str
    server: str
    steps: list[list[Call]]
    wrong: int
    expected: Answer
    got: Answer
    place: int
    confirmed: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; these fields stay. ``summary`` is for people.

    ``cold``: how an empty cache was had, ``flush`` or ``salt``.
    """

    verdict: Verdict
    summary: str
    server: dict[str, Any]
    cold: str
    seed: int
    calibration: Calibration
    workloads: list[WorkloadResult]
    reproduction: Reproduction | None

    @property
    def status(self) -> int:
        """The command's exit status."""
        return {Verdict.EXACT: 0, Verdict.NOISE: 0, Verdict.DIFFERS: 1}.get(self.verdict, 2)


def of_workload(name: str, compared: Sequence[Compared], note: str = "") -> WorkloadResult:
    """What a workload's comparisons amount to."""
    largest = max((one.comparison.largest for one in compared), default=0.0)
    reused = sum(one.cached > 0 for one in compared)
    differ = sum(one.excess > 1 for one in compared)
    if differ:
        verdict = Verdict.DIFFERS
    elif not reused:
        verdict = Verdict.NOT_REUSED
    else:
        verdict = Verdict.EXACT if all(one.exact for one in compared) else Verdict.NOISE
    return WorkloadResult(
        name=name,
        verdict=verdict,
        requests=len(compared),
        reused=reused,
        cached_tokens=sum(one.cached for one in compared),
        prompt_tokens=sum(one.prompt_tokens for one in compared),
        changed=sum(one.comparison.first_difference is not None for one in compared),
        differ=differ,
        largest_shift=None if largest == float("inf") else largest,
        note=note,
    )


def of_all(workloads: Sequence[WorkloadResult], calibration: Calibration) -> tuple[Verdict, str]:
    """The one verdict, and a sentence that says why."""
    wrong = [workload.name for workload in workloads if workload.verdict is Verdict.DIFFERS]
    requests = sum(workload.requests for workload in workloads)
    reused = sum(workload.reused for workload in workloads)
    shifts = [workload.largest_shift or 0.0 for workload in workloads]
    resumed = f"{reused} of {requests} requests resumed from the cache"
    if wrong:
        differ = sum(workload.differ for workload in workloads)
        return Verdict.DIFFERS, (
            f"{differ} of {requests} answers are not those of an empty cache: {', '.join(wrong)}"
        )
    if not reused:
        return Verdict.NOT_REUSED, f"none of {requests} requests resumed from the cache"
    control = calibration.other_prefix
    if control.found * 2 < control.of:
        return Verdict.UNSURE, (
            f"a state of another prefix would have been seen in {control.found} of {control.of} "
            "answers only: cold answers vary too much, or say too little of their prompt"
        )
    if all(one.verdict is not Verdict.NOISE for one in workloads):
        return Verdict.EXACT, (
            f"{resumed}; every answer is that of an empty cache, its log probabilities "
            f"within {max(shifts):.1g}"
        )
    changed = sum(workload.changed for workload in workloads)
    return Verdict.NOISE, (
        f"{resumed}; log probabilities move by {max(shifts):.2g} at most and {changed} answers by "
        f"a token, no more than this server's cold answers explain (up to {calibration.bound:.2g})"
    )


def judge(
    answer: Answer, references: Sequence[Answer], prompt_tokens: int, noise: Noise
) -> Compared:
    """An answer beside that cold one of several which it is nearest to."""
    excess, comparison = min(
        (
            (noise.excess(comparison.shifts), comparison)
            for comparison in (compare(answer, reference) for reference in references)
        ),
        key=lambda pair: pair[0],
    )
    return Compared(answer.cached, prompt_tokens, comparison, excess)
