"""What states taken inside a pass add to the time of a prefill, on this machine.

    python scripts/bench_in_passing.py [--tokens 8192] [NAME...]

For each model a server of its own. Prompts that share nothing, every second one with four states
inside; then prompts at whose half an earlier one parted, so that they leave a state there, beside
prompts that share nothing. Times to the first token, as ratios of neighbours. A name is a family's
of `scripts/families`, or `nemotron-h-8b-slice`: five layers of that model's size, in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import median

import asked_places
from bench_families import seconds
from families import FAMILIES, build_family
from gpu import models
from local_server import LocalServer, Process

_SLICE = "nemotron-h-8b-slice"
_PLACES = 4
_ARGUMENTS = (
    *("--radix-cache-backend", "marconi"),
    *("--max-total-tokens", "65536", "--max-mamba-cache-size", "64"),
    *("--max-running-requests", "4", "--mem-fraction-static", "0.5"),
    # A prompt in one pass.
    *("--chunked-prefill-size", "16384", "--max-prefill-tokens", "16384"),
)


class _Server(LocalServer):
    def _start(self, command: list[str]) -> Process:
        return super()._start(asked_places.command_with("asked_places", command))


def _build(name: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """A model's folder, and the arguments that its server needs."""
    if name != _SLICE:
        return build_family(folder / name, name), FAMILIES[name].serving
    path = models.build_nemotron_h_8b(folder / name)
    config = json.loads((path / "config.json").read_text())
    layers = {"hybrid_override_pattern": "M-M*-", "num_hidden_layers": 5}
    small = {"vocab_size": 2048, "dtype": "float32"}
    (path / "config.json").write_text(json.dumps(config | layers | small))
    return path, ("--load-format", "dummy")


def measure(name: str, folder: Path, tokens: int, pairs: int) -> Iterator[tuple[str, list[float]]]:
    """Of each kind of prompt, its time over that of a prompt that leaves nothing."""
    path, serving = _build(name, folder)
    asked = folder / f"{name}.json"
    asked.write_text("[]")
    log = folder / f"{name}.log"
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {asked_places.FILE: str(asked), "PYTHONPATH": os.pathsep.join(paths)}
    with _Server(path, *_ARGUMENTS, *serving, log_path=log, env=environment) as server:
        draw = Random(1)
        places = sorted(draw.sample(range(1, tokens), _PLACES))
        for _ in range(2):  # What is done once only.
            seconds(server.url, _prompt(draw, tokens), 1)
        inside, branching = [], []
        for pair in range(pairs):
            # One before the other and the other way round, as a machine's speed drifts.
            times = {}
            for asks in (pair % 2 == 0, pair % 2 == 1):
                asked.write_text(json.dumps(places if asks else []))
                times[asks] = seconds(server.url, _prompt(draw, tokens), 1)
            inside.append(times[True] / times[False])
            asked.write_text("[]")
            shared = _prompt(draw, tokens // 2)
            rest = tokens - len(shared)
            seconds(server.url, shared + _prompt(draw, rest), 1)
            for branches in (pair % 2 == 0, pair % 2 == 1):
                first = shared if branches else _prompt(draw, len(shared))
                times[branches] = seconds(server.url, first + _prompt(draw, rest), 1)
            branching.append(times[True] / times[False])
    yield "inside", inside
    yield "branch", branching


def _prompt(draw: Random, count: int) -> list[int]:
    return [draw.randrange(300, 1000) for _ in range(count)]


def _shown(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def main() -> None:
    """Measures one model after another and prints a row for each."""
    parser = argparse.ArgumentParser(description="What states inside a pass add to its time.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([_SLICE, *FAMILIES]))
    parser.add_argument("--tokens", type=int, default=8192, help="of a prompt (default: 8192)")
    parser.add_argument("--pairs", type=int, default=7, help="of each kind (default: 7)")
    given = parser.parse_args()
    print("| model | four states inside | a branch point |\n|---|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names or [_SLICE, *FAMILIES]:
            found = dict(measure(name, Path(folder), given.tokens, given.pairs))
            print(f"| `{name}` | {' | '.join(map(_shown, found.values()))} |", flush=True)


if __name__ == "__main__":
    main()
