"""Fits the token ids of a trace into the vocabulary of another model."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from sglang_marconi.replay.requests import TokenRequest


def plain_token_ids(tokenizer_file: Path) -> list[int]:
    """Every id of a `tokenizer.json` but the special ones, in order."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return [id for id in range(tokenizer.get_vocab_size()) if id not in special]


def fold(requests: Iterable[TokenRequest], vocabulary: Sequence[int]) -> list[TokenRequest]:
    """The same stream over `vocabulary`: equal ids stay equal, so shared prefixes stay shared.

    Ids that differ may become equal where the trace has more of them than the vocabulary.
    """

    def folded(tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(vocabulary[token % len(vocabulary)] for token in tokens)

    return [
        request._replace(
            new_tokens=folded(request.new_tokens), reply_tokens=folded(request.reply_tokens)
        )
        for request in requests
    ]
