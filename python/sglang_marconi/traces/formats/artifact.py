"""The format of the Marconi paper's artifact: each line is a turn with its whole prompt."""

from collections.abc import Collection, Iterator

import msgspec

from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.source import TimeStamp, TokenId, TraceSource
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens


class _Turn(msgspec.Struct):
    """One record; `ts` in seconds. The lengths it also gives are those of the two lists."""

    session_id: int | str
    turn_id: int
    ts: TimeStamp
    input_tokens: list[TokenId]
    output_tokens: list[TokenId]


class ArtifactFormat(TraceFormat):
    """A prompt is `input_tokens`: the history as the client sends it again, then what is new.

    An agent may shorten its history on the way, so a turn continues the session's prompt and
    reply before it only if its prompt starts with all of both. Turns stand on their own: one
    that is missing breaks none after it. Requests come in the file's order; `ts` is the arrival.
    """

    description = "Marconi artifact (session_id, turn_id, ts, input_tokens, output_tokens)"

    def recognises(self, fields: Collection[str]) -> bool:
        return "input_tokens" in fields

    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        earlier: dict[str, Tokens] = {}
        for _, turn in source.records(_Turn):
            session = str(turn.session_id)
            prompt = Tokens.plain(turn.input_tokens)
            reply = Tokens.plain(turn.output_tokens)
            before = earlier.get(session, Tokens.plain(()))
            whole = before.common_prefix(prompt) == len(before)
            continues = len(before) if whole else 0
            yield TraceRequest(session, turn.turn_id, turn.ts, prompt, reply, continues)
            earlier[session] = prompt + reply
