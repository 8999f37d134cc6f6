"""Chats as token ids, for models whose replies are no text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sglang_marconi.traces.requests import ChatRequest, TraceRequest
from sglang_marconi.traces.tokens import Tokens
from tiny_tokenizer import BOS, EOS
from tokenizers import Tokenizer

_OPENING, _CLOSING = f"{BOS}assistant\n", f"{EOS}\n"


def chats_as_tokens(chats: Iterable[ChatRequest], tokenizer_file: Path) -> list[TraceRequest]:
    """The same turns with their whole prompts, rendered as the tokenizer's chat template does.

    A reply stands there as so many tokens; against a server, those that it really replied count.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    histories: dict[str, list[int]] = {}

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text).ids
        return found

    requests = []
    for chat in chats:
        history = histories.get(chat.session_id, [])
        text = _CLOSING if history else ""
        for message in chat.new_messages:
            text += f"{BOS}{message.role}\n{message.content}{_CLOSING}"
        prompt = history + ids(text + _OPENING)
        reply = [0] * chat.max_output_tokens
        histories[chat.session_id] = prompt + reply
        request = TraceRequest(
            chat.session_id,
            chat.turn,
            chat.arrival,
            Tokens.plain(prompt),
            Tokens.plain(reply),
            continues=len(history),
        )
        requests.append(request)
    return requests
