"""Step: time to first token under memory pressure, what a branch point adds, time between tokens.

Two servers of the same model and memory, SGLang's default cache and this backend, answer the same
requests in turns, so that whatever else the machine does hits both alike.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import NamedTuple

from local_server import ServerFailedError
from sglang_marconi.client.server import replay
from sglang_marconi.client.vocabulary import plain_token_ids
from sglang_marconi.records import RequestRecord
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens
from tiny_model import build_tiny_model

from gpu import models, servers
from gpu.findings import SECONDS, leave, step_folder
from gpu.traffic import Conversations

STOCK, OURS = "SGLang", "Marconi"
SERVERS = {STOCK: (), OURS: servers.MARCONI}
GOAL = 0.7
"""Of the median time to first token with SGLang's default cache."""


class Scale(NamedTuple):
    """Sizes for a machine; `kv_tokens` and `states` are fewer than the conversations leave."""

    conversations: Conversations
    concurrency: int
    kv_tokens: int
    states: int
    rounds: int
    branch_prompt: int
    branches: int
    decoded: int


# Twenty-four states are what four requests at a time need and four more: a checkpoint of this
# model has 102 MB.
GPU = Scale(Conversations(4, 2048, 24, 4, 128, 32), 4, 20480, 24, 5, 4096, 6, 128)
CPU = Scale(Conversations(2, 512, 6, 2, 64, 8), 2, 6144, 14, 1, 512, 2, 16)


class Round(NamedTuple):
    """One server's answers to one set of requests; times in seconds, one of each request."""

    ttft: list[float]
    between: list[float]
    hit_rate: float
    seconds: float


class Findings:
    """What is known so far, left for the report after each part."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[Round]] = {name: [] for name in SERVERS}
        self.branches: dict[str, list[float]] = {}
        self.decode: dict[str, dict[int, float]] = {name: {} for name in SERVERS}

    def leave(self) -> None:
        """Write them."""
        lines = [*ttft_lines(self.rounds), *branch_lines(self.branches), *decode_lines(self.decode)]
        rounds = {name: [one._asdict() for one in many] for name, many in self.rounds.items()}
        leave(lines, {"rounds": rounds, "branches": self.branches, "decode": self.decode})


def main() -> None:
    """As many rounds as time allows, the other measurements after the first."""
    started = time.monotonic()
    scale = GPU if servers.CUDA else CPU
    deadline = started + float(os.environ.get(SECONDS, "3600")) - 5
    folder = step_folder()
    build = models.build_nemotron_h_8b if servers.CUDA else build_tiny_model
    path = build(folder / "model")
    vocabulary = plain_token_ids(path / "tokenizer.json")
    findings = Findings()
    try:
        with ExitStack() as stack:
            urls = start(stack, path, scale)
            for url in urls.values():
                warm_up(url, scale, vocabulary)
            longest = 0.0
            for number in range(scale.rounds):
                begun = time.monotonic()
                if begun + 1.2 * longest > deadline and number:
                    break
                for name, one in play(urls, scale, vocabulary, seed=100 + number):
                    findings.rounds[name].append(one)
                longest = time.monotonic() - begun
                findings.leave()
                if number == 0:
                    measure_branches(urls, scale, vocabulary, findings)
                    measure_decode(urls, scale, vocabulary, findings)
    except ServerFailedError as error:
        sys.exit(str(error))


def start(stack: ExitStack, path: Path, scale: Scale) -> dict[str, str]:
    """Both servers at once; their URLs by name."""
    memory = (
        *("--max-total-tokens", str(scale.kv_tokens)),
        *("--max-mamba-cache-size", str(scale.states)),
    )
    dummy = ("--load-format", "dummy") if servers.CUDA else ()
    made = {
        name: servers.server(path, *memory, *dummy, *arguments, name=name.lower())
        for name, arguments in SERVERS.items()
    }
    with ThreadPoolExecutor() as pool:
        entered = [pool.submit(one.__enter__) for one in made.values()]
        for one, future in zip(made.values(), entered, strict=True):
            if future.exception() is None:
                stack.push(one.__exit__)
        for future in entered:
            future.result()
    return {name: one.url for name, one in made.items()}


def warm_up(url: str, scale: Scale, vocabulary: list[int]) -> None:
    """Every kind of pass once, so that nothing compiles while it is timed."""
    small = scale.conversations._replace(conversations=scale.concurrency, turns=2)
    ask(url, small.requests(vocabulary, seed=1), scale.concurrency)
    ask(url, list(pairs(scale, vocabulary, seed=2)), 1)
    servers.flush(url)


def play(
    urls: dict[str, str], scale: Scale, vocabulary: list[int], seed: int
) -> Iterator[tuple[str, Round]]:
    """The same conversations to each server, which begins with nothing; first to one or other."""
    requests = scale.conversations.requests(vocabulary, seed)
    names = list(urls) if seed % 2 else list(reversed(urls))
    for name in names:
        servers.flush(urls[name])
        begun = time.monotonic()
        records = ask(urls[name], requests, scale.concurrency)
        hit = sum(record.hit_tokens for record in records)
        prompt = sum(record.prompt_tokens for record in records)
        yield (
            name,
            Round(
                first_token_times(records),
                [record.tpot for record in records if record.tpot is not None],
                hit / prompt,
                time.monotonic() - begun,
            ),
        )


def pairs(scale: Scale, vocabulary: list[int], seed: int) -> Iterator[TraceRequest]:
    """Prompts in threes: one, another that begins with the first half of it, a third unlike both.

    Nothing can be reused of the second, and it is as long as the third; but it leaves the first
    one with a branch point, at which its pass leaves a state.
    """
    random = Random(seed)
    half = scale.branch_prompt // 2

    def draw() -> list[int]:
        return random.choices(vocabulary, k=half)

    for number in range(scale.branches):
        shared = draw()
        for kind, prompt in (
            ("first", shared + draw()),
            ("branch", shared + draw()),
            ("whole", draw() + draw()),
        ):
            tokens, reply = Tokens.plain(prompt), Tokens.plain(vocabulary[:1])
            yield TraceRequest(f"{kind}-{seed}-{number}", 0, 0.0, tokens, reply)


def measure_branches(
    urls: dict[str, str], scale: Scale, vocabulary: list[int], findings: Findings
) -> None:
    """How much longer a prompt's first token takes when its pass leaves a state inside it."""
    for name, url in urls.items():
        servers.flush(url)
        records = ask(url, list(pairs(scale, vocabulary, seed=3)), 1)
        of = {
            kind: first_token_times(r for r in records if r.session_id.startswith(kind))
            for kind in ("branch", "whole")
        }
        findings.branches[name] = [
            branch - whole for branch, whole in zip(of["branch"], of["whole"], strict=True)
        ]
    findings.leave()


def measure_decode(
    urls: dict[str, str], scale: Scale, vocabulary: list[int], findings: Findings
) -> None:
    """Time between tokens, of one request at a time and of as many as the rounds have."""
    for many in (1, scale.concurrency):
        for name, url in urls.items():
            random = Random(many)
            requests = [
                TraceRequest(
                    f"decode-{many}-{number}",
                    0,
                    0.0,
                    Tokens.plain(random.choices(vocabulary, k=256)),
                    Tokens.plain(vocabulary[:1] * scale.decoded),
                )
                for number in range(2 * many)
            ]
            records = ask(url, requests, many)
            findings.decode[name][many] = median(
                record.tpot for record in records if record.tpot is not None
            )
    findings.leave()


def ask(url: str, requests: Sequence[TraceRequest], concurrency: int) -> list[RequestRecord]:
    """Send the requests, at most so many at a time."""
    return asyncio.run(replay(url, requests, trace="", concurrency=concurrency))


def first_token_times(records: Iterable[RequestRecord]) -> list[float]:
    """Seconds, of each request that had a first token."""
    return [record.ttft for record in records if record.ttft is not None]


def ttft_lines(rounds: dict[str, list[Round]]) -> list[str]:
    """A row for each server, and what the goal was."""
    if not all(rounds.values()):
        return ["No round was finished."]
    rows = [
        "| cache | rounds | token hit rate | median TTFT | of its rounds | P95 | a round |",
        "|---|--:|--:|--:|---|--:|--:|",
    ]
    for name, played in rounds.items():
        everything = [ttft for one in played for ttft in one.ttft]
        medians = [median(one.ttft) for one in played]
        hit_rate = median(one.hit_rate for one in played)
        rows.append(
            f"| {name} | {len(played)} | {hit_rate:.1%} | {_ms(median(everything))} "
            f"| {_ms(min(medians))} to {_ms(max(medians))} "
            f"| {_ms(quantiles(everything, n=20)[-1])} "
            f"| {median(one.seconds for one in played):.1f} s |"
        )
    ratios = ratios_of(rounds)
    ratio = median(ratios)
    verdict = "met" if ratio <= GOAL else "missed"
    return [
        *rows,
        "",
        f"Median time to first token, {OURS} over {STOCK}: {ratio:.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds); "
        f"the goal, {GOAL}, is {verdict}.",
    ]


def ratios_of(rounds: dict[str, list[Round]]) -> list[float]:
    """Ours over SGLang's, of the medians of each round that both have played."""
    return [
        median(ours.ttft) / median(theirs.ttft)
        for ours, theirs in zip(rounds[OURS], rounds[STOCK], strict=False)
    ]


def branch_lines(branches: dict[str, list[float]]) -> list[str]:
    """The second sight of a prefix, where a pass leaves a state, beside a new prompt."""
    return [
        f"- A branch point ({name}; {len(differences)} prompts whose first half was seen once, "
        f"beside new ones of the same length): {_ms(median(differences), '+')} to the first token "
        f"({_ms(min(differences), '+')} to {_ms(max(differences), '+')})."
        for name, differences in branches.items()
    ]


def decode_lines(decode: dict[str, dict[int, float]]) -> list[str]:
    """Medians."""
    return [
        f"- Between tokens ({name}): "
        + ", ".join(f"{_ms(seconds)} with {many} at a time" for many, seconds in found.items())
        for name, found in decode.items()
        if found
    ]


def _ms(seconds: float, sign: str = "") -> str:
    return f"{1e3 * seconds:{sign}.1f} ms"


if __name__ == "__main__":
    main()
