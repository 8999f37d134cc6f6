"""Serves the same requests with SGLang's own prefix caches and with this one, and compares them.

    python scripts/demo.py [--family NAME] [--trace FILE [--limit N]] [--out DIR]

It needs no GPU and no download: the model is a small one with random weights, made on the spot, a
NemotronH or one of the family that is named. Without a trace, the requests are multi-turn chats
over a few shared system prompts. Ends with a table, the records of all runs and requests as JSON
lines, and a page with their plots.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from families import FAMILIES, Family, build_family
from families.chats import chats_as_tokens
from local_server import LocalServer, ServerFailedError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sglang_marconi.client.server import ReplayError, replay
from sglang_marconi.client.vocabulary import plain_token_ids
from sglang_marconi.cost import ModelCost
from sglang_marconi.cost.load import load_cost
from sglang_marconi.records import RequestRecord, RunRecord, run_record, write_records
from sglang_marconi.report.terminal import comparison
from sglang_marconi.report.write import write_report
from sglang_marconi.traces.formats import read_trace
from sglang_marconi.traces.requests import Request
from sglang_marconi.traces.workload import ChatWorkload
from tiny_model import build_tiny_model

CONFIGURATIONS = {
    "SGLang no_buffer": (
        *("--mamba-radix-cache-strategy", "no_buffer"),
        "--disable-overlap-schedule",
    ),
    "SGLang extra_buffer": ("--mamba-radix-cache-strategy", "extra_buffer"),
    "Marconi": ("--radix-cache-backend", "marconi"),
}
"""What is compared: a name and the arguments that the server gets beyond the common ones.

A family that SGLang keeps without buffers only is served without the second one.
"""

_CONCURRENCY = 4
_MODEL_NAME = "demo model"


class _Scenario(NamedTuple):
    """A request stream and its name, and the memory that every server gets for it."""

    name: str
    requests: Sequence[Request]
    kv_tokens: int
    states: int

    def arguments(self) -> tuple[str, ...]:
        return (
            *("--max-total-tokens", str(self.kv_tokens)),
            *("--max-mamba-cache-size", str(self.states)),
            *("--max-running-requests", str(_CONCURRENCY)),
            *("--served-model-name", _MODEL_NAME),
            "--enable-cache-report",
        )


class _Model(NamedTuple):
    """The model on disk, what it costs, and the ids that the tokens of a trace become.

    `arguments` are those a server needs for it. Without `family` it is the tiny NemotronH.
    """

    path: Path
    cost: ModelCost
    vocabulary: Sequence[int]
    arguments: tuple[str, ...]
    family: Family | None

    def configurations(self) -> Iterator[str]:
        """Those of `CONFIGURATIONS` that SGLang has for it."""
        for name in CONFIGURATIONS:
            strategy = name.removeprefix("SGLang ")
            if self.family is None or strategy in (name, *self.family.strategies):
                yield name


class _Run(NamedTuple):
    """What came out of one configuration."""

    total: RunRecord
    requests: Sequence[RequestRecord]


def _build_model(out: Path, name: str | None) -> _Model:
    arguments: tuple[str, ...] = ()
    if name is None:
        path, family = build_tiny_model(out / "model"), None
    else:
        path, family = build_family(out / name, name), FAMILIES[name]
        arguments = family.serving
    ids = plain_token_ids(path / "tokenizer.json")
    return _Model(path, load_cost(str(path)), ids, arguments, family)


def _chats(model: _Model) -> _Scenario:
    chats = ChatWorkload().requests()
    requests: Sequence[Request] = chats
    if model.family is not None:
        # Its replies are tokens at random: their text would not be tokenized as they were.
        requests = chats_as_tokens(chats, model.path / "tokenizer.json")
    # Fewer tokens and states than the sessions leave behind, so that each cache must evict.
    return _Scenario("chats", requests, kv_tokens=12288, states=24)


def _trace(path: Path, limit: int | None, model: _Model) -> _Scenario:
    requests = list(read_trace(path, limit=limit, tokenizer=model.path))
    if not requests:
        raise ValueError(f"{path} holds no request")
    longest = max(len(request.prompt) + len(request.reply) for request in requests)
    # Room for the requests that run at a time, should they share nothing, and half as much again.
    return _Scenario(path.name, requests, kv_tokens=longest * _CONCURRENCY * 3 // 2, states=24)


def _run(name: str, model: _Model, scenario: _Scenario, out: Path, progress: Progress) -> _Run:
    """Starts a server of the named configuration and sends it the scenario's requests."""
    task = progress.add_task(f"{name}: starting", total=None)
    begin = time.perf_counter()
    arguments = (*model.arguments, *scenario.arguments(), *CONFIGURATIONS[name])
    prompt_tokens = hit_tokens = 0

    def show(record: RequestRecord) -> None:
        nonlocal prompt_tokens, hit_tokens
        prompt_tokens += record.prompt_tokens
        hit_tokens += record.hit_tokens
        hit_rate = f"{name}: token hit rate {hit_tokens / prompt_tokens:.1%}"
        progress.update(task, advance=1, description=hit_rate)

    log = out / f"{name.replace(' ', '-')}.log"
    with LocalServer(model.path, *arguments, log_path=log) as server:
        serving = time.perf_counter()
        progress.console.print(f"{name}: server up after {serving - begin:.0f} s")
        progress.update(task, description=f"{name}: serving", total=len(scenario.requests))
        records = asyncio.run(
            replay(
                server.url,
                scenario.requests,
                trace=scenario.name,
                policy=name,
                concurrency=_CONCURRENCY,
                vocabulary=model.vocabulary,
                on_record=show,
            )
        )
        seconds = time.perf_counter() - serving
    return _Run(run_record(records, seconds=seconds, cost=model.cost), records)


def demo(
    family: str | None, trace: Path | None, limit: int | None, out: Path, console: Console
) -> None:
    """Runs every configuration in turn and reports; everything written goes into `out`."""
    model = _build_model(out, family)
    scenario = _trace(trace, limit, model) if trace else _chats(model)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        runs = [_run(name, model, scenario, out, progress) for name in model.configurations()]
    totals = [run.total for run in runs]
    console.print(comparison(totals))
    write_records(out / "runs.jsonl", totals)
    write_records(out / "requests.jsonl", (record for run in runs for record in run.requests))
    console.print(f"Report: {write_report(out)}   Records: {out / 'requests.jsonl'}")


def _count(text: str) -> int:
    """An argument that is a whole number from 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main() -> None:
    """Reads the command line, and reports what can go wrong as one line."""
    parser = argparse.ArgumentParser(description="Compare SGLang's prefix cache with this one.")
    parser.add_argument(
        "--family", choices=FAMILIES, metavar="NAME", help=f"one of {', '.join(FAMILIES)}"
    )
    parser.add_argument("--trace", type=Path, help="replay this file instead of made-up chats")
    parser.add_argument("--limit", type=_count, help="use only its first so many requests")
    parser.add_argument("--out", type=Path, default=Path(".demo"), help="default: %(default)s")
    arguments = parser.parse_args()
    # Ended this way too, the `with` blocks must stop the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        demo(arguments.family, arguments.trace, arguments.limit, arguments.out, Console())
    except (OSError, ReplayError, ServerFailedError, ValueError) as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    main()
