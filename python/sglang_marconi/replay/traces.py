"""Reader of the incremental token format: JSON lines, each a turn with the tokens it adds."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec

from sglang_marconi.replay.requests import TokenRequest

_TokenIds = tuple[Annotated[int, msgspec.Meta(ge=0)], ...]


class _Turn(msgspec.Struct):
    """One line of the file."""

    session_id: int | str
    turn_id: int
    ts: float
    new_tokens: _TokenIds
    output_tokens: _TokenIds


class TraceError(ValueError):
    """A broken line of a trace; the message names the file and the line (from 1)."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")


def read_token_trace(path: Path, limit: int | None = None) -> list[TokenRequest]:
    """The first `limit` requests of the file (all of them if None), in the file's order.

    Raises `TraceError` for a line that is not JSON, lacks a field, holds a value of the wrong
    type, or is not the next turn of its session; lines beyond `limit` are not read.
    """
    return list(islice(_turns(path), limit))


def _turns(path: Path) -> Iterator[TokenRequest]:
    decoder = msgspec.json.Decoder(_Turn)
    next_turn: defaultdict[str, int] = defaultdict(int)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                turn = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise TraceError(path, number, str(error)) from error
            session = str(turn.session_id)
            if turn.turn_id != next_turn[session]:
                # A prompt is built from all the turns before it, so none may be missing.
                reason = f"session {session} continues with turn {turn.turn_id}, "
                raise TraceError(path, number, reason + f"expected {next_turn[session]}")
            if not turn.output_tokens:
                raise TraceError(path, number, "output_tokens is empty: a reply has a token")
            next_turn[session] += 1
            yield TokenRequest(session, turn.turn_id, turn.ts, turn.new_tokens, turn.output_tokens)
