"""What a replay, simulated or against a server, found: a record a run and a record a request.

Both are written as JSON lines; tables, plots and reports are made from the files alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from sglang_marconi.cost import ModelCost


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One trace under one policy with one budget.

    Bytes are bytes (GB means 10^9 of them), times seconds. ``budget_bytes`` is ``None`` where
    nothing bounds the cache, or where a server was asked that does not say. ``seconds`` is how
    long the replay took; the fields about time to first token (``ttft``) and time per output
    token (``tpot``) are those of a server, or of a latency profile in a simulation, else ``None``.

    Hits are counted in tokens alone. The share of requests with a hit would say little: prompts
    that start with the same words nearly all have one, and those of a shared system prompt would
    however many tokens a hit took.
    """

    trace: str
    policy: str
    model: str
    budget_bytes: int | None
    requests: int
    prompt_tokens: int
    hit_tokens: int
    token_hit_rate: float
    flops_saved: float
    peak_bytes: int | None
    evictions: int | None
    seconds: float
    ttft_p50: float | None = None
    ttft_p95: float | None = None
    ttft_p99: float | None = None
    tpot_p50: float | None = None
    tpot_p95: float | None = None
    tpot_p99: float | None = None


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a run; which run, its first four fields say.

    ``state_bytes`` and ``kv_bytes`` are what the cache holds once the request has ended;
    ``arrival`` is in seconds since the start of the trace.
    """

    trace: str
    policy: str
    model: str
    budget_bytes: int | None
    session_id: str
    turn: int
    arrival: float
    prompt_tokens: int
    hit_tokens: int
    state_bytes: int | None = None
    kv_bytes: int | None = None
    ttft: float | None = None
    tpot: float | None = None


Rec = TypeVar("Rec", RunRecord, RequestRecord)


def write_records(path: Path, records: Iterable[Rec]) -> None:
    """Write JSON lines, one a record."""
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        file.writelines(encoder.encode(record) + b"\n" for record in records)


def read_records(path: Path, kind: type[Rec]) -> Sequence[Rec]:
    """Read what `write_records` wrote.

    Raises ``msgspec.ValidationError`` for a line that is not such a record.
    """
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb") as file:
        return [decoder.decode(line) for line in file]


def run_record(
    records: Sequence[RequestRecord], *, seconds: float, cost: ModelCost | None = None
) -> RunRecord:
    """Totals and percentiles of one run, which took `seconds`.

    The FLOPs saved are those of the prefixes that hits made it needless to compute, by `cost`,
    that of the model on one rank; without a cost nobody knows them, and 0.0 stands for that.
    Peak and evictions are `None`: requests do not say. Percentiles lie between the two nearest
    values, in proportion.

    Raises `ValueError` if there are no records.
    """
    if not records:
        raise ValueError("a run without records has no totals")
    prompt_tokens = sum(record.prompt_tokens for record in records)
    hit_tokens = sum(record.hit_tokens for record in records)
    saved = (cost.prefill_flops(0, record.hit_tokens) for record in records) if cost else ()
    ttft = _percentiles([record.ttft for record in records])
    tpot = _percentiles([record.tpot for record in records])
    return RunRecord(
        trace=records[0].trace,
        policy=records[0].policy,
        model=records[0].model,
        budget_bytes=records[0].budget_bytes,
        requests=len(records),
        prompt_tokens=prompt_tokens,
        hit_tokens=hit_tokens,
        token_hit_rate=hit_tokens / prompt_tokens,
        flops_saved=sum(saved, 0.0),
        peak_bytes=None,
        evictions=None,
        seconds=seconds,
        ttft_p50=ttft[0],
        ttft_p95=ttft[1],
        ttft_p99=ttft[2],
        tpot_p50=tpot[0],
        tpot_p95=tpot[1],
        tpot_p99=tpot[2],
    )


def _percentiles(times: Sequence[float | None]) -> Sequence[float | None]:
    """The 50th, 95th and 99th of those that were measured."""
    measured = [time for time in times if time is not None]
    if not measured:
        return None, None, None
    percentiles: list[float | None] = np.percentile(measured, [50, 95, 99]).tolist()
    return percentiles
