"""The ShareGPT format: each record is a conversation, mostly in a JSON array."""

from collections.abc import Collection, Iterator

import msgspec

from sglang_marconi.traces.formats.conversations import ASSISTANT, USER, Spoken, one_a_second
from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.source import TraceSource
from sglang_marconi.traces.requests import TraceRequest

_ROLES = {
    "human": USER,
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "bing": ASSISTANT,
    "bard": ASSISTANT,
}


class _Message(msgspec.Struct):
    value: str
    speaker: str = msgspec.field(name="from")


class _Conversation(msgspec.Struct):
    conversations: list[_Message]


class ShareGptFormat(TraceFormat):
    """Messages are `from` "human", the model ("gpt" and other names), or another role as it is.

    `one_a_second` says when they arrive, and what sessions are called.
    """

    description = "ShareGPT (conversations)"

    def recognises(self, fields: Collection[str]) -> bool:
        return "conversations" in fields

    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        return one_a_second(source, _Conversation, _spoken)


def _spoken(conversation: _Conversation) -> list[Spoken]:
    return [
        Spoken(_ROLES.get(message.speaker, message.speaker), message.value)
        for message in conversation.conversations
    ]
