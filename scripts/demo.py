"""Serves the same requests with SGLang's own prefix caches and with this one, and compares them.

    python scripts/demo.py [--trace FILE [--limit N]] [--out DIR]

It needs no GPU and no download: the model is a small one with random weights, made on the spot.
Without a trace, the requests are multi-turn chats over a few shared system prompts. Ends with a
table, a plot of the token hit rate over the run, and a JSON file of every request.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from local_server import LocalServer, ServerFailedError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sglang_marconi.replay.plots import plot_hit_rate
from sglang_marconi.replay.records import Record
from sglang_marconi.replay.report import comparison, summarize
from sglang_marconi.replay.requests import Request, TokenRequest
from sglang_marconi.replay.server import ReplayError, replay
from sglang_marconi.replay.traces import read_token_trace
from sglang_marconi.replay.vocabulary import fold, plain_token_ids
from sglang_marconi.replay.workload import ChatWorkload
from tiny_model import build_tiny_model

CONFIGURATIONS = {
    "SGLang no_buffer": (
        *("--mamba-radix-cache-strategy", "no_buffer"),
        "--disable-overlap-schedule",
    ),
    "SGLang extra_buffer": ("--mamba-radix-cache-strategy", "extra_buffer"),
    "Marconi": ("--radix-cache-backend", "marconi"),
}
"""What is compared: a name and the arguments that the server gets beyond the common ones."""

_CONCURRENCY = 4


class _Scenario(NamedTuple):
    """A request stream, and the memory that every server gets for it."""

    requests: Sequence[Request]
    kv_tokens: int
    states: int

    def arguments(self) -> tuple[str, ...]:
        return (
            *("--max-total-tokens", str(self.kv_tokens)),
            *("--max-mamba-cache-size", str(self.states)),
            *("--max-running-requests", str(_CONCURRENCY)),
            "--enable-cache-report",
        )


def _chats() -> _Scenario:
    # Fewer tokens and states than the sessions leave behind, so that each cache must evict.
    return _Scenario(ChatWorkload().requests(), kv_tokens=12288, states=24)


def _trace(path: Path, limit: int | None, model: Path) -> _Scenario:
    recorded = read_token_trace(path, limit)
    if not recorded:
        raise ValueError(f"{path} holds no request")
    requests = fold(recorded, plain_token_ids(model / "tokenizer.json"))
    # Room for the requests that run at a time, should they share nothing, and half as much again.
    return _Scenario(requests, kv_tokens=_longest(requests) * _CONCURRENCY * 3 // 2, states=24)


def _longest(requests: Sequence[TokenRequest]) -> int:
    """Most tokens of any request, prompt and reply."""
    lengths: defaultdict[str, int] = defaultdict(int)
    for request in requests:
        lengths[request.session_id] += len(request.new_tokens) + len(request.reply_tokens)
    return max(lengths.values())


def _run(
    name: str, model: Path, scenario: _Scenario, out: Path, progress: Progress
) -> list[Record]:
    """Starts a server of the named configuration and sends it the scenario's requests."""
    task = progress.add_task(f"{name}: starting", total=None)
    begin = time.perf_counter()
    arguments = (*scenario.arguments(), *CONFIGURATIONS[name])
    prompt_tokens = cached_tokens = 0

    def show(record: Record) -> None:
        nonlocal prompt_tokens, cached_tokens
        prompt_tokens += record.prompt_tokens
        cached_tokens += record.cached_tokens
        hit_rate = f"{name}: token hit rate {cached_tokens / prompt_tokens:.1%}"
        progress.update(task, advance=1, description=hit_rate)

    with LocalServer(model, *arguments, log_path=out / f"{name.replace(' ', '-')}.log") as server:
        progress.console.print(f"{name}: server up after {time.perf_counter() - begin:.0f} s")
        progress.update(task, description=f"{name}: serving", total=len(scenario.requests))
        return asyncio.run(
            replay(server.url, scenario.requests, concurrency=_CONCURRENCY, on_record=show)
        )


def _write_json(runs: dict[str, list[Record]], scenario: _Scenario, path: Path) -> None:
    content = {
        name: {
            "arguments": [*scenario.arguments(), *CONFIGURATIONS[name]],
            "summary": summarize(records)._asdict(),
            "records": [record._asdict() for record in records],
        }
        for name, records in runs.items()
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def demo(trace: Path | None, limit: int | None, out: Path, console: Console) -> None:
    """Runs every configuration in turn and reports; everything written goes into `out`."""
    model = build_tiny_model(out / "model")
    scenario = _trace(trace, limit, model) if trace else _chats()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        runs = {name: _run(name, model, scenario, out, progress) for name in CONFIGURATIONS}
    console.print(comparison(runs))
    plot_hit_rate(runs, out / "hit_rate.png")
    _write_json(runs, scenario, out / "records.json")
    console.print(f"Plot: {out / 'hit_rate.png'}   Records: {out / 'records.json'}")


def _count(text: str) -> int:
    """An argument that is a whole number from 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main() -> None:
    """Reads the command line, and reports what can go wrong as one line."""
    parser = argparse.ArgumentParser(description="Compare SGLang's prefix cache with this one.")
    parser.add_argument("--trace", type=Path, help="replay this file instead of made-up chats")
    parser.add_argument("--limit", type=_count, help="use only its first so many requests")
    parser.add_argument("--out", type=Path, default=Path(".demo"), help="default: %(default)s")
    arguments = parser.parse_args()
    # Ended this way too, the `with` blocks must stop the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        demo(arguments.trace, arguments.limit, arguments.out, Console())
    except (OSError, ReplayError, ServerFailedError, ValueError) as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    main()
