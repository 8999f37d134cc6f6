"""Reads a folder of records, and says where its two files disagree."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sglang_marconi import units
from sglang_marconi.records import RequestRecord, RunRecord, read_records
from sglang_marconi.report.groups import run_of


class Replay(NamedTuple):
    """Runs, the requests of these runs, and sentences about what the files lack."""

    runs: Sequence[RunRecord]
    requests: Sequence[RequestRecord]
    notes: Sequence[str]


def read_replay(folder: Path) -> Replay:
    """Reads ``runs.jsonl`` and, if there is one, ``requests.jsonl``.

    Raises ``FileNotFoundError`` without ``runs.jsonl``, and ``ValueError`` if there are no runs
    in it or two of the same trace, model, policy and budget, whose requests nothing tells apart.
    """
    runs = read_records(folder / "runs.jsonl", RunRecord)
    if not runs:
        raise ValueError(f"{folder / 'runs.jsonl'} has no runs")
    keys = Counter(run_of(run) for run in runs)
    for key, times in keys.items():
        if times > 1:
            raise ValueError(f"{folder / 'runs.jsonl'} has {times} runs of {key}")
    path = folder / "requests.jsonl"
    if not path.exists():
        return Replay(runs, (), ["There is no requests.jsonl: nothing is known of requests."])
    found = read_records(path, RequestRecord)
    requests = [record for record in found if run_of(record) in keys]
    notes = []
    if foreign := len(found) - len(requests):
        total = units.count(len(found))
        notes.append(
            f"{units.count(foreign)} of {total} requests are of runs that runs.jsonl does not "
            "name, and are left out."
        )
    without = keys.keys() - {run_of(record) for record in requests}
    if without:
        names = (
            f"{key.policy} ({units.budget_size(key.budget_bytes)}, {key.trace} on {key.model})"
            for key in keys
            if key in without
        )
        notes.append(f"Runs without requests in requests.jsonl: {', '.join(names)}.")
    return Replay(runs, requests, notes)
