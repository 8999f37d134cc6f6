"""The compact token format: each line is a turn with what it keeps of an earlier one, and adds."""

from collections.abc import Collection, Iterator
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from sglang_marconi.traces.formats.format import TraceFormat
from sglang_marconi.traces.formats.source import TimeStamp, TokenId, TraceSource
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Turn(msgspec.Struct):
    """One record; `ts` in seconds, `keep` in tokens."""

    session_id: int | str
    turn_id: int
    ts: TimeStamp
    keep: _Count
    new_tokens: list[TokenId]
    output_tokens: list[TokenId]
    base: _Count | None = None


class CompactFormat(TraceFormat):
    """A prompt is the first `keep` tokens of an earlier turn's prompt and reply, then `new_tokens`.

    The earlier turn is line `base`, counted from 0, and where none is given the session's line
    before this one. A line that keeps tokens of a broken one is broken, too. A turn continues the
    session's prompt and reply before it if its prompt starts with all of both. Requests come in
    the file's order; `ts` is the arrival. All turns are held in memory, as any may be kept of.
    """

    description = "compact tokens (session_id, turn_id, ts, keep, base, new_tokens, output_tokens)"

    def recognises(self, fields: Collection[str]) -> bool:
        return "keep" in fields

    def read(self, source: TraceSource) -> Iterator[TraceRequest]:
        turns: dict[int, Tokens] = {}
        last: dict[str, int] = {}
        nothing = Tokens.plain(())
        for number, turn in source.records(_Turn):
            session, index = str(turn.session_id), number - source.first_number
            base = last.get(session) if turn.base is None else turn.base
            kept = nothing if base is None else turns.get(base, nothing)
            if len(kept) < turn.keep:
                reason = f"keeps {turn.keep} tokens of an earlier turn, which has {len(kept)}"
                source.bad(number, reason)
                continue
            length = turn.keep + len(turn.new_tokens)
            parts = kept.ids[: turn.keep], _array(turn.new_tokens), _array(turn.output_tokens)
            whole = Tokens.plain(np.concatenate(parts))
            # A view: prompts are most of such a trace, and would be held twice.
            prompt = Tokens(whole.ids[:length], whole.ends[:length])
            before = turns[last[session]] if session in last else nothing
            continues = len(before) if before.common_prefix(prompt) == len(before) else 0
            reply = Tokens.plain(turn.output_tokens)
            yield TraceRequest(session, turn.turn_id, turn.ts, prompt, reply, continues)
            turns[index] = whole
            last[session] = index


def _array(tokens: list[int]) -> NDArray[np.int64]:
    return np.array(tokens, np.int64)
