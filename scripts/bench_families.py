"""How fast small models of hybrid families are served on this machine.

    python scripts/bench_families.py [FAMILY...]

For each family, a server of its own: tokens a second in the prefill of a prompt of 2,000 tokens,
and in decoding 100 tokens of one request, medians and spreads of five. Shows whether a CPU is fast
enough to try a family on; it says nothing about a GPU.
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

from families import FAMILIES, build_family
from local_server import LocalServer

_PROMPT, _REPLY, _RUNS = 2000, 100, 5
_ARGUMENTS = (
    *("--radix-cache-backend", "marconi"),
    *("--max-total-tokens", "16384", "--max-mamba-cache-size", "64"),
    *("--max-running-requests", "8"),
)


def measure(name: str, folder: Path) -> tuple[list[float], list[float]]:
    """Tokens a second of each run: prefilled, and decoded."""
    path = build_family(folder / name, name)
    arguments = (*_ARGUMENTS, *FAMILIES[name].serving)
    prefilled, decoded = [], []
    with LocalServer(path, *arguments, log_path=folder / f"{name}.log") as server:
        seconds(server.url, _tokens(300, seed=0), 8)  # What is done once only.
        for run in range(1, _RUNS + 1):
            prefilled.append(_PROMPT / seconds(server.url, _tokens(_PROMPT, seed=run), 1))
            short = _tokens(20, seed=-run)
            first = seconds(server.url, short, 1)
            decoded.append(_REPLY / (seconds(server.url, short, _REPLY + 1) - first))
    return prefilled, decoded


def _tokens(count: int, seed: int) -> list[int]:
    random = Random(seed)
    return [random.randrange(300, 1000) for _ in range(count)]


def seconds(url: str, prompt: Sequence[int], reply: int) -> float:
    """How long a request takes, with so many tokens for a reply."""
    sampling = {"temperature": 0, "max_new_tokens": reply, "ignore_eos": True}
    body = json.dumps({"input_ids": list(prompt), "sampling_params": sampling}).encode()
    request = urllib.request.Request(f"{url}/generate", body, {"Content-Type": "application/json"})
    begin = time.perf_counter()
    with urllib.request.urlopen(request, timeout=300) as answer:
        answer.read()
    return time.perf_counter() - begin


def _shown(speeds: Sequence[float]) -> str:
    return f"{median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"


def main() -> None:
    """Measures one family after another and prints a row for each."""
    parser = argparse.ArgumentParser(description="Prefilled and decoded tokens a second.")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(FAMILIES))
    names = parser.parse_args().families or list(FAMILIES)
    print("| family | prefilled | decoded |\n|---|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            prefilled, decoded = measure(name, Path(folder))
            print(f"| `{name}` | {_shown(prefilled)} | {_shown(decoded)} |", flush=True)


if __name__ == "__main__":
    main()
