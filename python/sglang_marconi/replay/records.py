"""The record of a run, made from those of its requests."""

from collections.abc import Sequence

import numpy as np

from sglang_marconi.cost import ModelCost
from sglang_marconi.replay.results import RequestRecord, RunRecord


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
        request_hit_rate=sum(record.hit_tokens > 0 for record in records) / len(records),
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
