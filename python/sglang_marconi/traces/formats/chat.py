"""Conversations as OpenAI chat messages: each line is a whole conversation."""

from collections.abc import Collection, Iterator

import msgspec

from sglang_marconi.traces.formats.conversations import (
    ConversationTokenizer,
    Session,
    Spoken,
    interleave,
)
from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.source import TimeStamp, TraceSource
from sglang_marconi.traces.requests import TraceRequest


class _TextPart(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class _Message(msgspec.Struct):
    role: str
    content: str | list[_TextPart] | None = None
    tool_calls: list[dict[str, object]] | None = None


class _Conversation(msgspec.Struct):
    """One record; the time stamp is in seconds, since any moment."""

    messages: list[_Message]
    session_id: int | str | None = None
    id: int | str | None = None
    ts: TimeStamp | None = None
    timestamp: TimeStamp | None = None


class ChatFormat(TraceFormat):
    """A session is named by `session_id`, else by `id`, else by its number in the file.

    It arrives at `ts`, else at `timestamp`, counted from the first one's, and these must not go
    back; where no record has them, sessions arrive one second apart.
    `ConversationTokenizer.session` says when the turns do. Requests come in order of arrival.
    A message's text is its content, of parts all the texts, then each tool call as JSON on a
    line of its own. A conversation that nobody but the assistant speaks in makes no request.
    """

    description = "OpenAI chat messages (messages, session_id or id, ts or timestamp)"

    def recognises(self, fields: Collection[str]) -> bool:
        return "messages" in fields

    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        return interleave(_sessions(source, ConversationTokenizer.of(source)))


def _sessions(source: TraceSource, tokenizer: ConversationTokenizer) -> Iterator[Session]:
    names: set[str] = set()
    first: float | None = None
    start = -1.0
    for number, conversation in source.records(_Conversation):
        name = _name(conversation, number)
        stamp = conversation.timestamp if conversation.ts is None else conversation.ts
        if name in names:
            source.bad(number, f"session {name} is there already: a record is a whole conversation")
            continue
        if names and (stamp is None) != (first is None):
            source.bad(number, "all records have a time stamp or none has")
            continue
        if not names:
            first = stamp
        arrival = start + 1 if stamp is None or first is None else stamp - first
        if arrival < start:
            source.bad(number, f"starts at {stamp}, before the session before it")
            continue
        try:
            messages = [_spoken(message) for message in conversation.messages]
        except RecursionError as error:
            source.bad(number, f"a tool call: {error}")
            continue
        names.add(name)
        start = arrival
        yield tokenizer.session(name, start, messages)


def _name(conversation: _Conversation, number: int) -> str:
    for name in (conversation.session_id, conversation.id):
        if name is not None:
            return str(name)
    return str(number)


def _spoken(message: _Message) -> Spoken:
    content = message.content or ""
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    calls = "".join(f"\n{msgspec.json.encode(call).decode()}" for call in message.tool_calls or ())
    return Spoken(message.role, text + calls)
