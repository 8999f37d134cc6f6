"""Gives the tokens of a trace ids of the model that it is replayed on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sglang_marconi.traces.tokens import Tokens

# Of the SplitMix64 generator: one step and two rounds of mixing.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def plain_token_ids(tokenizer_file: Path) -> list[int]:
    """Every id of a `tokenizer.json` but the special ones, in order."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return [id for id in range(tokenizer.get_vocab_size()) if id not in special]


class Vocabulary:
    """The ids that tokens of a trace may become; equal tokens become equal ids.

    Tokens that differ become equal where there are more of them than ids, so two prompts may
    share some tokens more than in the trace. The same ids give the same result in every process.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        """Raises `ValueError` if there are no ids."""
        if not len(ids):
            raise ValueError("a vocabulary needs at least one id")
        self._ids = np.array(ids, np.int64)

    def fold(self, tokens: Tokens) -> list[int]:
        """An id for each token.

        The first token of a run, so each one of plain ids, is folded: number modulo size. Those
        after it get pseudo-random ids by the run's number and their place in it. A run cut down
        to one token is thus as the beginning of the whole one.
        """
        lengths = np.diff(tokens.ends, prepend=0)
        numbers = np.repeat(tokens.ids, lengths)
        places = np.arange(len(numbers)) - np.repeat(tokens.ends - lengths, lengths)
        size = len(self._ids)
        mixed = _mix(_mix(numbers.astype(np.uint64)) + places.astype(np.uint64))
        rows = np.where(places == 0, numbers % size, mixed % np.uint64(size))
        folded: list[int] = self._ids[rows.astype(np.int64)].tolist()
        return folded


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64, which has no two equal results."""
    mixed = values + _STEP
    for shift, factor in _ROUNDS:
        mixed = (mixed ^ (mixed >> shift)) * factor
    return mixed ^ (mixed >> np.uint64(31))
