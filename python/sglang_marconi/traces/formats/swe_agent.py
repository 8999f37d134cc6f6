"""Trajectories of SWE-agent: one object, the agent at work on one issue."""

from collections.abc import Collection, Iterator

import msgspec

from sglang_marconi.traces.formats.conversations import one_a_second
from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.messages import Message, spoken
from sglang_marconi.traces.formats.source import TraceSource
from sglang_marconi.traces.requests import TraceRequest


class _Conversation(msgspec.Struct):
    history: list[Message]


class SweAgentFormat(TraceFormat):
    """A conversation is `history`; each of the agent's messages ends a request.

    What an agent leaves out of its history as it grows, the file does not say: a prompt is all
    of it. `one_a_second` says when turns arrive.
    """

    description = "SWE-agent trajectories (history, trajectory)"

    def recognises(self, fields: Collection[str]) -> bool:
        return "history" in fields and "trajectory" in fields

    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        return one_a_second(source, _Conversation, lambda record: spoken(record.history))
