"""The incremental token format: each line is a turn with the tokens it adds."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import msgspec

from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.source import TimeStamp, TokenId, TraceSource
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens


class _Turn(msgspec.Struct):
    """One record; `ts` in seconds."""

    session_id: int | str
    turn_id: int
    ts: TimeStamp
    new_tokens: list[TokenId]
    output_tokens: list[TokenId]


@dataclass
class _Session:
    """What has been read of a session: how many turns, and their prompts and replies."""

    turns: int = 0
    tokens: Tokens = field(default_factory=lambda: Tokens.plain(()))


class IncrementalFormat(TraceFormat):
    """A prompt is everything earlier in its session, prompts and replies, then `new_tokens`.

    The turns of a session count from 0. A prompt is built from all the turns before it, so
    where one is missing or broken, the session's later turns are broken, too. Requests come in
    the file's order; `ts` is the arrival.
    """

    description = "incremental tokens (session_id, turn_id, ts, new_tokens, output_tokens)"

    def recognises(self, fields: Collection[str]) -> bool:
        return "new_tokens" in fields and "keep" not in fields

    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        sessions: defaultdict[str, _Session] = defaultdict(_Session)
        for number, turn in source.records(_Turn):
            name = str(turn.session_id)
            session = sessions[name]
            if turn.turn_id != session.turns:
                reason = f"session {name} continues with turn {turn.turn_id}, "
                source.bad(number, reason + f"expected {session.turns}")
                continue
            if not turn.output_tokens:
                source.bad(number, "output_tokens is empty: a reply has a token")
                continue
            prompt = session.tokens + Tokens.plain(turn.new_tokens)
            reply = Tokens.plain(turn.output_tokens)
            yield TraceRequest(name, turn.turn_id, turn.ts, prompt, reply, len(session.tokens))
            session.turns += 1
            session.tokens = prompt + reply
