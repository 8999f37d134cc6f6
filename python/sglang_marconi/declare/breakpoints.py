"""``cache_control`` in the bodies of ``/v1/messages`` and ``/v1/chat/completions``.

A breakpoint is on whatever has the field: a tool, a block of the system prompt, a message, a part
of one, a part of a tool's result; or on the whole body, which is the last part of the last message.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

MOST = 4
"""Breakpoints of one request, as Anthropic has it."""

Body = dict[str, Any]
"""A request's JSON, of either API."""

FIELD = "cache_control"


class BreakpointError(ValueError):
    """A breakpoint that cannot be served; the message is for the client."""


class Breakpoint(NamedTuple):
    """What bears it.

    ``section``: ``tools``, ``system`` or ``messages``; ``number``: which tool, block or message.
    ``part``: which part of the message, ``None`` for one whose content is a text, or none;
    ``inner``: which part of a tool's result that is in that part.
    """

    section: str
    number: int
    part: int | None = None
    inner: int | None = None

    def __str__(self) -> str:
        part = "" if self.part is None else f".content[{self.part}]"
        inner = "" if self.inner is None else f".content[{self.inner}]"
        return f"{self.section}[{self.number}]{part}{inner}"


def breakpoints(body: Body) -> list[Breakpoint]:
    """Those of a request, in the order of the body; that on all of it comes last.

    Raises:
        BreakpointError: there are more than ``MOST``, or one is of an unknown type.
    """
    found = list(dict.fromkeys(_breakpoints(body)))
    if len(found) > MOST:
        raise BreakpointError(
            f"at most {MOST} {FIELD} breakpoints are allowed in a request, found {len(found)}"
        )
    return found


def _breakpoints(body: Body) -> Iterator[Breakpoint]:
    for index, tool in enumerate(items(body.get("tools"))):
        place = Breakpoint("tools", index)
        if _has(tool, place) or _has(tool.get("function"), place):
            yield place
    for index, block in enumerate(items(body.get("system"))):
        if _has(block, place := Breakpoint("system", index)):
            yield place
    messages = items(body.get("messages"))
    for index, message in enumerate(messages):
        parts = items(message.get("content"))
        for part, block in enumerate(parts):
            for inner, each in enumerate(items(block.get("content"))):
                if _has(each, place := Breakpoint("messages", index, part, inner)):
                    yield place
            if _has(block, place := Breakpoint("messages", index, part)):
                yield place
        if _has(message, place := _end_of(index, parts)):
            yield place
    if messages and _has(
        body, place := _end_of(len(messages) - 1, items(messages[-1].get("content")))
    ):
        yield place


def _end_of(index: int, parts: list[Body]) -> Breakpoint:
    """The whole of a message: its last part."""
    return Breakpoint("messages", index, len(parts) - 1 if parts else None)


def _has(bearer: Any, place: Breakpoint) -> bool:
    """Whether a breakpoint is on this. How long it is to be kept is up to the cache."""
    control = bearer.get(FIELD) if isinstance(bearer, dict) else None
    if control is None:
        return False
    if not isinstance(control, dict) or control.get("type") != "ephemeral":
        raise BreakpointError(f"{place}: {FIELD}.type must be 'ephemeral'")
    return True


def items(value: Any) -> list[Body]:
    """The objects that a field holds a list of; none where it holds something else."""
    return value if isinstance(value, list) and all(isinstance(v, dict) for v in value) else []
