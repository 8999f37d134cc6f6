"""The ShareGPT format: a JSON array of conversations."""

from collections.abc import Collection, Iterator

import msgspec

from sglang_marconi.traces.formats.conversations import (
    ASSISTANT,
    USER,
    ConversationTokenizer,
    Session,
    Spoken,
    interleave,
)
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

    The format has no time stamps: sessions arrive one second apart, in the file's order;
    `ConversationTokenizer.session` says when the turns do. Requests come in order of arrival.
    A session is named by its number in the file, as errors name it. A conversation that nobody
    but the assistant speaks in makes no request.
    """

    description = "ShareGPT, a JSON array (id, conversations)"

    def recognises(self, fields: Collection[str]) -> bool:
        return "conversations" in fields

    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        return interleave(_sessions(source, ConversationTokenizer.of(source)))


def _sessions(source: TraceSource, tokenizer: ConversationTokenizer) -> Iterator[Session]:
    for start, (number, conversation) in enumerate(source.records(_Conversation)):
        messages = [
            Spoken(_ROLES.get(message.speaker, message.speaker), message.value)
            for message in conversation.conversations
        ]
        yield tokenizer.session(str(number), float(start), messages)
