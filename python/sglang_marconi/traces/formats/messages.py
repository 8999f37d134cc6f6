"""Messages as the OpenAI API has them: formats differ in where a record has its list of them."""

from collections.abc import Sequence

import msgspec

from sglang_marconi.traces.formats.conversations import Spoken


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class Message(msgspec.Struct):
    """One message."""

    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[dict[str, object]] | None = None


def spoken(messages: Sequence[Message]) -> list[Spoken]:
    """The messages as text: content, of parts all the texts, then each tool call as JSON.

    Each call is on a line of its own. Raises `ValueError` for a part that is not text, or a call
    that is nested too deeply.
    """
    return [Spoken(message.role, _text(message)) for message in messages]


def _text(message: Message) -> str:
    content = message.content or ""
    text = content if isinstance(content, str) else "".join(map(_part_text, content))
    try:
        calls = [msgspec.json.encode(call).decode() for call in message.tool_calls or ()]
    except RecursionError as error:
        raise ValueError(f"a tool call: {error}") from error
    return "\n".join([text, *calls])


def _part_text(part: _Part) -> str:
    if part.type != "text":
        raise ValueError(
            f"a message has a part of type {part.type}, and only text can be replayed: "
            "remove such parts, or leave their records out with --skip-bad"
        )
    if part.text is None:
        raise ValueError("a message has a part of type text without one")
    return part.text
