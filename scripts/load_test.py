"""Puts a server under mixed traffic, and says whether it kept working.

    python scripts/load_test.py [--minutes N] [--settings JSON] [--seed N]

Chats, branching prompts, clients that hang up, malformed requests, changes of weights and more,
against a small model whose pools hold a fraction of what requests leave, while SGLang looks for
leaks. Exit status 0: every answer was as it should be, sampled ones are those of an empty cache,
nothing leaked and memory did not grow; 1: something else, which is named.
"""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from load_run import CHECKS, Plan, Report, arguments, put_under_load
from local_server import LocalServer, ServerFailedError
from rich.console import Console
from rich.table import Table
from tiny_model import build_tiny_model

_SHOWN = 10


def _table(report: Report) -> Table:
    table = Table("traffic", "sent", "failed")
    for kind, sent in sorted(report.sent.items()):
        table.add_row(kind, str(sent), str(report.failed[kind]))
    table.add_section()
    table.add_row("together", str(report.sent.total()), str(report.failed.total()))
    return table


def show(report: Report, console: Console) -> None:
    """The counts, the memory and the verdict."""
    console.print(_table(report))
    totals = ", ".join(f"{count} {name}" for name, count in sorted(report.totals.items()))
    console.print(f"Greedy answers: {totals}")
    console.print(f"Compared with a cold answer: {report.compared}, different: {report.different}")
    start, half, end = (report.memory[at].resident / 1e6 for at in (0, len(report.memory) // 2, -1))
    first, second = report.growth()
    console.print(
        f"Memory: {start:.1f} MB at the start, {half:.1f} at half time, {end:.1f} at the end; "
        f"by their slopes the halves added {first:+.2%} and {second:+.2%}"
    )
    for failure in report.failures[:_SHOWN]:
        console.print(failure, style="red", markup=False)
    console.print("It keeps working." if not report.failures else "FAILED", style="bold")


def _settings(text: str) -> str:
    if not isinstance(json.loads(text), dict):
        raise ValueError
    return text


def main() -> None:
    """Reads the command line and runs it."""
    parser = argparse.ArgumentParser(description="Put a server under mixed traffic.")
    parser.add_argument("--minutes", type=float, default=10, help="default: %(default)s")
    parser.add_argument("--settings", type=_settings, default="{}", help="of the cache, as JSON")
    parser.add_argument("--sglang", action="store_true", help="SGLang's own cache, to compare")
    parser.add_argument("--seed", type=int, default=0, help="of the traffic")
    parser.add_argument("--out", type=Path, default=Path(".demo"), help="default: %(default)s")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    models = (
        build_tiny_model(given.out / "model"),
        build_tiny_model(given.out / "other-model", seed=1),
    )
    lossy = json.loads(given.settings).get("encoding", "exact") != "exact"
    plan = Plan(models, 60 * given.minutes, seed=given.seed, lossy=lossy)
    server_arguments = arguments(None if given.sglang else given.settings)
    console = Console()
    try:
        with LocalServer(
            models[0], *server_arguments, log_path=given.out / "load.log", env=CHECKS
        ) as server:
            report = asyncio.run(put_under_load(server, plan))
    except (OSError, ServerFailedError) as error:
        sys.exit(f"load_test: {error}")
    show(report, console)
    sys.exit(bool(report.failures))


if __name__ == "__main__":
    main()
