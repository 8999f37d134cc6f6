"""Conversations as LMSYS-Chat-1M and WildChat publish them, one a line."""

from collections.abc import Collection, Iterator

import msgspec

from sglang_marconi.traces.formats.conversations import one_a_second
from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.messages import Message, spoken
from sglang_marconi.traces.formats.source import TraceSource
from sglang_marconi.traces.requests import TraceRequest


class _Conversation(msgspec.Struct):
    conversation: list[Message]


class LmsysFormat(TraceFormat):
    """A conversation is `conversation`.

    Ids and time stamps, which the two name differently, are not read: `one_a_second` says when
    they arrive, and what sessions are called.
    """

    description = "LMSYS and WildChat conversations (conversation)"

    def recognises(self, fields: Collection[str]) -> bool:
        return "conversation" in fields

    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        return one_a_second(source, _Conversation, lambda record: spoken(record.conversation))
