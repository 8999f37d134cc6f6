"""What each quantity of the report means, and which of them nobody measured."""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from sglang_marconi import units
from sglang_marconi.records import RequestRecord, RunRecord

_QUANTITIES = {
    "Hit tokens": "Prompt tokens whose prefill the cache saved.",
    "Token hit rate": "Hit tokens over prompt tokens, of all requests of a run together.",
    "Token hit rate so far": "Hit tokens over prompt tokens of all requests up to an arrival.",
    "Points": "Percentage points: the difference of two rates in percent.",
    "Saved FLOPs": "Floating-point operations of prefill that hits made unnecessary.",
    "PFLOP, EFLOP": "10¹⁵ and 10¹⁸ floating-point operations.",
    "Budget": "The most bytes that states and KV in the cache may take up together.",
    "No budget": "Nothing bounds the cache, or the server does not say what does.",
    "GB": "10⁹ bytes.",
    "States and KV": "Bytes of recurrent states, and of keys and values of attention layers, "
    "that the cache holds once a request has ended.",
    "Peak": "The most bytes that the cache held during a run.",
    "Evictions": "States and leaves that the cache gave up.",
    "Replay time": "How long it took to replay the trace.",
    "Arrival": "When a request comes in, counted from the start of the trace.",
    "Time to first token (TTFT)": "From sending a request to the first token of its reply.",
    "Time per output token (TPOT)": "The mean time from one token of a reply to the next.",
    "P50, P95, P99": "The time that 50, 95 or 99 % of a run's requests do not exceed.",
}
_POLICIES = {
    "lru": "The policy that evicts what was least recently used.",
    "oracle": "A policy that knows the requests to come: a mark, and never named as best.",
    "unlimited": "A cache that evicts nothing: a bound, and never named as best.",
}

_FIELDS = {
    "peak_bytes": "Peak",
    "evictions": "Evictions",
    "state_bytes": "Bytes of states after each request",
    "kv_bytes": "Bytes of KV after each request",
    "ttft": "Time to first token of each request",
    "tpot": "Time per output token of each request",
    **{f"ttft_p{rank}": f"Time to first token, P{rank}" for rank in (50, 95, 99)},
    **{f"tpot_p{rank}": f"Time per output token, P{rank}" for rank in (50, 95, 99)},
}


def definitions(policies: Collection[str]) -> Mapping[str, str]:
    """A sentence for each term of the report, of policies only those that were run."""
    return _QUANTITIES | {name: text for name, text in _POLICIES.items() if name in policies}


def not_measured(runs: Sequence[RunRecord], requests: Sequence[RequestRecord]) -> Sequence[str]:
    """A sentence for each field that is ``None`` in some of the records."""
    return [*_absent(runs, "runs"), *_absent(requests, "requests")]


def _absent(records: Sequence[msgspec.Struct], kind: str) -> Sequence[str]:
    sentences = []
    for field in records[0].__struct_fields__ if records else ():
        if field not in _FIELDS:
            continue
        absent = sum(getattr(record, field) is None for record in records)
        if absent == len(records):
            sentences.append(f"{_FIELDS[field]}: in none of the {kind}.")
        elif absent:
            total = units.count(len(records))
            sentences.append(f"{_FIELDS[field]}: not in {units.count(absent)} of {total} {kind}.")
    return sentences
