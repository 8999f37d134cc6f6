"""The Mooncake format: each line is a request, its prompt given as a hash for each block."""

from collections.abc import Collection, Iterator
from typing import Annotated

import msgspec

from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.source import TimeStamp, TokenId, TraceSource
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens

BLOCK = 512
"""Tokens in a block; a prompt's last block may be cut short."""

_LONGEST = 2**31 - 1


class _Request(msgspec.Struct):
    """One record; `timestamp` in milliseconds, lengths in tokens."""

    timestamp: TimeStamp
    input_length: Annotated[int, msgspec.Meta(ge=1, le=_LONGEST)]
    output_length: Annotated[int, msgspec.Meta(ge=0, le=_LONGEST)]
    hash_ids: list[TokenId]


class MooncakeFormat(TraceFormat):
    """Equal hashes are equal blocks, and equal prefixes up to their end.

    The format does not say which request continues which, so every one is a session of its own,
    named by its line; nor what was replied, so a reply is tokens that occur nowhere else.
    Requests come in the file's order.
    """

    description = "Mooncake (timestamp, input_length, output_length, hash_ids)"

    def recognises(self, fields: Collection[str]) -> bool:
        return "hash_ids" in fields

    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        for number, request in source.records(_Request):
            try:
                prompt = Tokens.blocks(request.hash_ids, BLOCK, request.input_length)
            except ValueError as error:
                source.bad(number, str(error))
                continue
            reply = _unnamed(-1 - number, request.output_length)
            yield TraceRequest(str(number), 0, request.timestamp / 1000, prompt, reply)


def _unnamed(number: int, length: int) -> Tokens:
    """One run of `length` tokens, or nothing."""
    return Tokens.blocks([number], length, length) if length else Tokens.plain(())
