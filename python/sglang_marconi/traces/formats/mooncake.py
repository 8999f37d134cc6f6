"""The Mooncake format: each line is a request, its prompt given as a hash for each block."""

from collections.abc import Collection, Iterator
from typing import Annotated

import msgspec

from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.mooncake_replies import Hashed, Replies
from sglang_marconi.traces.formats.source import TimeStamp, TokenId, TraceSource
from sglang_marconi.traces.requests import TraceRequest

_LONGEST = 2**31 - 1


class _Request(msgspec.Struct):
    """One record; `timestamp` in milliseconds, lengths in tokens."""

    timestamp: TimeStamp
    input_length: Annotated[int, msgspec.Meta(ge=1, le=_LONGEST)]
    output_length: Annotated[int, msgspec.Meta(ge=0, le=_LONGEST)]
    hash_ids: list[TokenId]

    def hashed(self, number: int) -> Hashed:
        return Hashed(number, self.hash_ids, self.input_length, self.output_length)


class MooncakeFormat(TraceFormat):
    """Equal hashes are equal blocks, and equal prefixes up to their end.

    The format does not say which request continues which, so every one is a session of its own,
    named by its line. `Replies` says what they were replied, for which the whole file is read
    before the first request comes. Requests come in the file's order.
    """

    description = "Mooncake (timestamp, input_length, output_length, hash_ids)"

    def recognises(self, fields: Collection[str]) -> bool:
        return "hash_ids" in fields

    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        ahead = (request.hashed(number) for number, request in source.whole_records(_Request))
        replies = Replies(request for request in ahead if request.problem is None)
        for number, request in source.records(_Request):
            hashed = request.hashed(number)
            if hashed.problem is not None:
                source.bad(number, hashed.problem)
                continue
            prompt, reply = replies.tokens(hashed)
            yield TraceRequest(str(number), 0, request.timestamp / 1000, prompt, reply)
