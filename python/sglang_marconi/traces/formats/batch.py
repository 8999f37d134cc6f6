"""Input of OpenAI's batch API: each line is a request of its own."""

from collections.abc import Collection, Iterator
from typing import Annotated

import msgspec

from sglang_marconi.traces.formats.conversations import ConversationTokenizer, with_messages
from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.messages import Message, spoken
from sglang_marconi.traces.formats.source import TraceSource
from sglang_marconi.traces.requests import TraceRequest


class _Body(msgspec.Struct):
    """What `/v1/chat/completions` takes; other endpoints have no messages."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]


class _Request(msgspec.Struct):
    custom_id: str
    body: _Body


class BatchFormat(TraceFormat):
    """A prompt is all messages of `body`, and its reply, which the file does not have, is empty.

    Every request is a session of its own, named by its `custom_id`. They arrive one second
    apart, in the file's order.
    """

    description = "input of OpenAI's batch API (custom_id, body)"

    def recognises(self, fields: Collection[str]) -> bool:
        return "body" in fields

    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        tokenizer = ConversationTokenizer.of(source)
        records = with_messages(source, _Request, lambda record: spoken(record.body.messages))
        return (
            tokenizer.request(record.custom_id, float(arrival), said)
            for arrival, (_, record, said) in enumerate(records)
        )
