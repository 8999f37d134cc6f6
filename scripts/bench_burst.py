"""Time to the first token of a burst of forks: this backend beside SGLang's own, on this machine.

    python scripts/bench_burst.py [--forks 8] [--shared 2000] [--rest 40] [--rounds 9]

Two servers of the demo's model with the same arguments but for the backend take turns. In each
round as many prompts as there are forks arrive together; they share a prefix that neither server
has seen, and nothing after it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import median

from local_server import LocalServer
from tiny_model import build_tiny_model

_ARGUMENTS = (
    *("--max-total-tokens", "65536", "--max-mamba-cache-size", "96"),
    *("--max-running-requests", "16", "--enable-cache-report"),
)
_BACKENDS: dict[str, tuple[str, ...]] = {
    "SGLang": (),
    "marconi": ("--radix-cache-backend", "marconi"),
}
_REPLY = 8


def burst(url: str, prompts: Sequence[Sequence[int]]) -> tuple[list[float], int]:
    """Seconds to each prompt's first token, in order of time; prompt tokens that were reused."""
    body = {
        "input_ids": prompts,
        "sampling_params": {"temperature": 0, "max_new_tokens": _REPLY, "ignore_eos": True},
        "stream": True,
    }
    request = urllib.request.Request(
        f"{url}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    first: dict[int, float] = {}
    reused: dict[int, int] = {}
    begin = time.perf_counter()
    with urllib.request.urlopen(request, timeout=600) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            token = json.loads(line.removeprefix(b"data: "))
            first.setdefault(token["index"], time.perf_counter() - begin)
            reused[token["index"]] = token["meta_info"]["cached_tokens"]
    assert len(first) == len(prompts)
    return sorted(first.values()), sum(reused.values())


def _tokens(draw: Random, count: int) -> list[int]:
    return [draw.randrange(300, 1000) for _ in range(count)]


def _forks(draw: Random, count: int, shared: int, rest: int) -> list[list[int]]:
    prefix = _tokens(draw, shared)
    return [prefix + _tokens(draw, rest) for _ in range(count)]


def _shown(values: Sequence[float], unit: str = "") -> str:
    return f"{median(values):.3f}{unit} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Measures both in turn and prints a row for each."""
    parser = argparse.ArgumentParser(description="Time to the first token of a burst.")
    parser.add_argument("--forks", type=int, default=8, help="prompts of a burst (default: 8)")
    parser.add_argument("--shared", type=int, default=2000, help="tokens of all (default: 2000)")
    parser.add_argument("--rest", type=int, default=40, help="tokens of each (default: 40)")
    parser.add_argument("--rounds", type=int, default=9, help="bursts of each (default: 9)")
    given = parser.parse_args()
    draw = Random(1)
    medians: dict[str, list[float]] = {name: [] for name in _BACKENDS}
    lasts: dict[str, list[float]] = {name: [] for name in _BACKENDS}
    hits: dict[str, list[int]] = {name: [] for name in _BACKENDS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = build_tiny_model(folder / "model")
        servers = {
            name: LocalServer(model, *_ARGUMENTS, *backend, log_path=folder / f"{name}.log")
            for name, backend in _BACKENDS.items()
        }
        with servers["SGLang"], servers["marconi"]:
            for number in range(-1, given.rounds):
                prompts = _forks(draw, given.forks, given.shared, given.rest)
                # One before the other and the other way round, as a machine's speed drifts.
                for name in sorted(servers, reverse=number % 2 == 0):
                    times, reused = burst(servers[name].url, prompts)
                    if number >= 0:  # Before, what is done once only.
                        medians[name].append(median(times))
                        lasts[name].append(times[-1])
                        hits[name].append(reused)
    print("| backend | reused tokens | median | last |\n|---|--:|--:|--:|")
    for name in _BACKENDS:
        row = (_shown(medians[name], " s"), _shown(lasts[name], " s"))
        print(f"| {name} | {median(hits[name]):.0f} | {' | '.join(row)} |")
    ratios = [
        [ours / theirs for ours, theirs in zip(of["marconi"], of["SGLang"], strict=True)]
        for of in (medians, lasts)
    ]
    print(f"| ratio of a round | | {' | '.join(map(_shown, ratios))} |")


if __name__ == "__main__":
    main()
