"""Results of tau-bench: a JSON array, each item a task with its conversation."""

from collections.abc import Collection, Iterator

import msgspec

from sglang_marconi.traces.formats.conversations import one_a_second
from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.messages import Message, spoken
from sglang_marconi.traces.formats.source import TraceSource
from sglang_marconi.traces.requests import TraceRequest


class _Conversation(msgspec.Struct):
    traj: list[Message]


class TauBenchFormat(TraceFormat):
    """A conversation is `traj`; each of the agent's messages ends a request, tool calls too.

    There are no time stamps, and a task occurs once for each trial: `one_a_second` says when
    they arrive, and what sessions are called.
    """

    description = "tau-bench results (traj)"

    def recognises(self, fields: Collection[str]) -> bool:
        return "traj" in fields

    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        return one_a_second(source, _Conversation, lambda record: spoken(record.traj))
