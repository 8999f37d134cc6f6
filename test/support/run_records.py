"""Records of runs, to make reports from."""

from pathlib import Path
from typing import Any

from sglang_marconi.records import RequestRecord, RunRecord, write_records

GB = 10**9


def run(policy: str = "lru", budget: int | None = 5 * GB, **fields: Any) -> RunRecord:
    values = {
        "trace": "chat",
        "model": "hybrid",
        "requests": 3,
        "prompt_tokens": 1000,
        "hit_tokens": 400,
        "token_hit_rate": 0.4,
        "flops_saved": 2e15,
        "peak_bytes": 4 * GB,
        "evictions": 7,
        "seconds": 1.5,
    }
    return RunRecord(policy=policy, budget_bytes=budget, **(values | fields))


def request(
    policy: str = "lru", budget: int | None = 5 * GB, arrival: float = 0.0, **fields: Any
) -> RequestRecord:
    values = {
        "trace": "chat",
        "model": "hybrid",
        "session_id": "s",
        "turn": 0,
        "prompt_tokens": 100,
        "hit_tokens": 0,
    }
    return RequestRecord(policy=policy, budget_bytes=budget, arrival=arrival, **(values | fields))


def fill(folder: Path, runs: list[RunRecord], requests: list[RequestRecord] | None = None) -> Path:
    write_records(folder / "runs.jsonl", runs)
    if requests is not None:
        write_records(folder / "requests.jsonl", requests)
    return folder
