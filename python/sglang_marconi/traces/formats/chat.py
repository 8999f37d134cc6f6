"""Conversations as OpenAI chat messages: each line is a whole conversation."""

from collections.abc import Collection, Iterator

import msgspec

from sglang_marconi.traces.formats.conversations import (
    ConversationTokenizer,
    Session,
    interleave,
    with_messages,
)
from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.messages import Message, spoken
from sglang_marconi.traces.formats.source import TimeStamp, TraceSource
from sglang_marconi.traces.requests import TraceRequest


class _Conversation(msgspec.Struct):
    """One record; the time stamp is in seconds, since any moment."""

    messages: list[Message]
    session_id: int | str | None = None
    id: int | str | None = None
    ts: TimeStamp | None = None
    timestamp: TimeStamp | None = None


class ChatFormat(TraceFormat):
    """A session is named by `session_id`, else by `id`, else by its number in the file.

    It arrives at `ts`, else at `timestamp`, counted from the first one's, and these must not go
    back; where no record has them, sessions arrive one second apart.
    `ConversationTokenizer.session` says when the turns do. Requests come in order of arrival.
    A conversation that nobody but the assistant speaks in makes no request.
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
    records = with_messages(source, _Conversation, lambda record: spoken(record.messages))
    for number, conversation, said in records:
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
        names.add(name)
        start = arrival
        yield tokenizer.session(name, start, said)


def _name(conversation: _Conversation, number: int) -> str:
    for name in (conversation.session_id, conversation.id):
        if name is not None:
            return str(name)
    return str(number)
