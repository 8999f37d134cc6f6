"""Time to predict where a prompt will be left: when it begins, and when its request has ended.

    python scripts/bench_prospects.py --prompt-tokens 2000 100000

As many places are remembered as there is room for, and 500 signatures are known; one of these
stands at every 200 tokens of each prompt, so that there are many candidates. No model runs, and
there is no tree.
"""

from __future__ import annotations

import argparse
import statistics
import time
from copy import deepcopy

import numpy as np
from rich.console import Console
from rich.table import Table
from sglang_marconi.policy.choice import Prospect
from sglang_marconi.policy.prospects import Ids, Prospects, Trail

_VOCABULARY = 100_000
_PLACES, _SIGNATURES, _SIGNATURE = 4096, 500, 3
_SHARED, _EARLIER, _EVERY = 100, 400, 200


class Experienced:
    """What a server knows that has seen many prompts of 400 tokens.

    Args:
        prompt_tokens: of each prompt to come.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self._random = np.random.default_rng(0)
        self._prospects = Prospects()
        self._left, _ = self._prospects.arrived(self._tokens(_EARLIER), 0, 0, None)
        signatures = []
        for number in range(_PLACES):
            tokens = self._tokens(_EARLIER)
            shared = _SHARED if number < _SIGNATURES else 0
            self._prospects.arrived(tokens, shared, 0, self._left)
            signatures.append(tokens[_SHARED - _SIGNATURE : _SHARED])
        # It has room for such a prompt, which is kept.
        self._prospects.arrived(self._tokens(prompt_tokens), 0, 0, None)
        self._prompt = self._tokens(prompt_tokens)
        for number, at in enumerate(range(_EVERY, prompt_tokens - _SIGNATURE, _EVERY)):
            self._prompt[at : at + _SIGNATURE] = signatures[number % _SIGNATURES]
        self._prompt[_SHARED - _SIGNATURE : _SHARED] = signatures[_SIGNATURES - 1]

    def prospects(self) -> Prospects:
        """Which know no more than that."""
        return deepcopy(self._prospects)

    def prompt(self) -> Ids:
        """One that parts from an earlier one after its first tokens, which is known for that."""
        tokens = self._prompt.copy()
        tokens[_SHARED:_EVERY] = self._tokens(_EVERY - _SHARED)
        return tokens

    def arrived(self, prospects: Prospects, prompt: Ids) -> tuple[Trail, list[Prospect]]:
        """It does that."""
        return prospects.arrived(prompt, _SHARED, _SHARED, self._left)

    def _tokens(self, count: int) -> Ids:
        return self._random.integers(0, _VOCABULARY, count)


def measure(prompt_tokens: int, prompts: int) -> tuple[list[float], list[float]]:
    """Seconds for each prompt: when it begins, and when its request has ended."""
    experienced = Experienced(prompt_tokens)
    begins, ends = [], []
    for prospects, prompt in [
        (experienced.prospects(), experienced.prompt()) for _ in range(prompts)
    ]:
        sequence = np.concatenate((prompt, prompt[:_EVERY]))
        start = time.perf_counter()
        trail, _ = experienced.arrived(prospects, prompt)
        begun = time.perf_counter()
        prospects.ended(trail, sequence, len(sequence) - 1)
        begins.append(begun - start)
        ends.append(time.perf_counter() - begun)
    return begins, ends


def main() -> None:
    """Prints medians and quartiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt-tokens", type=int, nargs="+", default=[2000, 100_000])
    parser.add_argument("--prompts", type=int, default=50)
    args = parser.parse_args()
    table = Table("prompt tokens", "moment", "median", "quartiles")
    for prompt_tokens in args.prompt_tokens:
        for moment, measured in zip(
            ("begins", "ends"), measure(prompt_tokens, args.prompts), strict=True
        ):
            low, middle, high = statistics.quantiles(measured, n=4)
            table.add_row(
                str(prompt_tokens),
                moment,
                f"{1e3 * middle:.3f} ms",
                f"{1e3 * low:.3f} to {1e3 * high:.3f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
