"""What a replay, simulated or against a server, found: a record a run and a record a request.

Both are written as JSON lines; tables, plots and pages are made from the files alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One trace under one policy with one budget.

    Bytes are bytes (GB means 10^9 of them), times seconds. ``budget_bytes`` is ``None`` where
    nothing bounds the cache, or where a server was asked that does not say. ``seconds`` is how
    long the replay took; the fields about time to first token (``ttft``) and time per output
    token (``tpot``) are those of a server, or of a latency profile in a simulation, else ``None``.
    """

    trace: str
    policy: str
    model: str
    budget_bytes: int | None
    requests: int
    prompt_tokens: int
    hit_tokens: int
    token_hit_rate: float
    request_hit_rate: float
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
