"""How much lossy checkpoints change what a model says: log probabilities over multi-turn chats.

    python scripts/lossy_divergence.py [--model DIR] [--sessions 8] [--turns 6]

Every prompt is first answered by a server without any cache. Then, for each encoding, a server with
a store too small for exact checkpoints of all sessions gets the same prompts, turn by turn, and its
log probabilities are compared as long as it chooses the same tokens. Without `--model`, a small
one with random weights is made: that shows the error of the states, not what a trained model
makes of it.
"""

import argparse
import json
import random
import statistics
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

from local_server import LocalServer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sglang_marconi.cost import ModelCost
from sglang_marconi.cost.load import load_cost
from tiny_model import build_tiny_model

ENCODINGS = ("exact", "bf16", "int8", "fp8")
_NEW_TOKENS, _REPLY_TOKENS = 60, 16
_RUNNING = 2
_IDS = range(300, 1000)


class Answer(NamedTuple):
    """Generated ids, their log probabilities, and how much of the prompt was reused."""

    ids: list[int]
    logprobs: list[float]
    reused: int


def _ask(server: LocalServer, prompt: list[int]) -> Answer:
    body = {
        "input_ids": prompt,
        "sampling_params": {
            "temperature": 0,
            "max_new_tokens": _REPLY_TOKENS,
            "ignore_eos": True,
        },
        "return_logprob": True,
    }
    request = urllib.request.Request(
        f"{server.url}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        answer = json.load(response)
    meta = answer["meta_info"]
    logprobs = [float(entry[0]) for entry in meta["output_token_logprobs"]]
    return Answer(answer["output_ids"], logprobs, meta["cached_tokens"])


def _server(model: Path, out: Path, name: str, *arguments: str) -> LocalServer:
    return LocalServer(
        model,
        "--enable-cache-report",
        *("--max-running-requests", str(_RUNNING)),
        *arguments,
        log_path=out / f"{name}.log",
    )


def _reference(model: Path, out: Path, sessions: int, turns: int) -> list[tuple[list[int], Answer]]:
    """The prompts, the first turns of all sessions first, and what a cold server answers."""
    chooser = random.Random(0)
    histories: list[list[int]] = [[] for _ in range(sessions)]
    asked = []
    with _server(model, out, "cold", "--disable-radix-cache") as server:
        for number in track(range(sessions * turns), "without a cache"):
            history = histories[number % sessions]
            history += chooser.choices(_IDS, k=_NEW_TOKENS)
            answer = _ask(server, history)
            assert answer.reused == 0
            asked.append((list(history), answer))
            history += answer.ids
    return asked


def _warm(
    model: Path,
    out: Path,
    encoding: str,
    cost: ModelCost,
    sessions: int,
    asked: list[tuple[list[int], Answer]],
) -> list[Answer]:
    size = cost.encoded_state_bytes(encoding)
    # Those in use and the one being stored, exact, and the sessions' as the encoding has them.
    room = (_RUNNING + 1) * cost.state_bytes + int(sessions * size * 1.2)
    if encoding == "exact":
        room = (sessions + _RUNNING + 1) * cost.state_bytes
    settings = json.dumps({"checkpoint_memory": f"{room}B", "encoding": encoding})
    slots = room // cost.state_bytes + 4 * _RUNNING + 2
    arguments = (
        *("--radix-cache-backend", "marconi", "--radix-eviction-policy-config", settings),
        *("--max-mamba-cache-size", str(slots), "--max-total-tokens", "32768"),
    )
    with _server(model, out, encoding, *arguments) as server:
        return [_ask(server, prompt) for prompt, _ in track(asked, encoding)]


def _row(encoding: str, asked: list[tuple[list[int], Answer]], warm: list[Answer]) -> list[str]:
    differences, same_first, same_reply, hits = [], 0, 0, 0
    for (_, cold), answer in zip(asked, warm, strict=True):
        if not answer.reused:
            continue
        hits += 1
        same = [a == b for a, b in zip(cold.ids, answer.ids, strict=True)]
        until = same.index(False) if False in same else len(same)
        pairs = zip(cold.logprobs[:until], answer.logprobs[:until], strict=True)
        differences += [abs(a - b) for a, b in pairs]
        same_first += same[0]
        same_reply += all(same)
    reused = sum(answer.reused for answer in warm) / sum(len(prompt) for prompt, _ in asked)
    return [
        encoding,
        f"{hits}",
        f"{reused:.1%}",
        f"{statistics.mean(differences):.1e}",
        f"{max(differences):.1e}",
        f"{same_first / hits:.1%}",
        f"{same_reply / hits:.1%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="What lossy checkpoints change.")
    parser.add_argument("--model", type=Path, help="a Mamba2 hybrid that runs here")
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--turns", type=int, default=6)
    arguments = parser.parse_args()
    sessions, turns = arguments.sessions, arguments.turns
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        model = arguments.model or build_tiny_model(out / "model")
        cost = load_cost(str(model))
        asked = _reference(model, out, sessions, turns)
        table = Table(title=f"{sessions} sessions of {turns} turns, {_REPLY_TOKENS} tokens each")
        for heading in (
            "encoding",
            "hits",
            "token hit rate",
            "mean |difference| of log probabilities",
            "greatest",
            "first token the same",
            "all the same",
        ):
            table.add_column(heading, justify="left" if heading == "encoding" else "right")
        for encoding in ENCODINGS:
            warm = _warm(model, out, encoding, cost, sessions, asked)
            table.add_row(*_row(encoding, asked, warm))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
