"""Other bodies that begin as one does, up to a breakpoint of it.

They have the same messages, in the same roles, so that a template treats what comes before the
breakpoint alike; only what comes after says something else.
"""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from sglang_marconi.declare.breakpoints import Body, Breakpoint, items

OTHER = "¤7"
"""A text that no prompt has: not a tool's name, and not how a reply begins."""

_SCHEMAS = ("parameters", "input_schema")
_SCHEMA = {"type": "object", "properties": {}}


def continued(body: Body, place: Breakpoint) -> Body:
    """All that comes after the breakpoint says something else; a tool is the last one.

    Tools come before the system prompt and that before the messages, as in Anthropic's API.
    """
    body = deepcopy(body)
    messages = items(body.get("messages"))
    if place.section == "tools":
        del body["tools"][place.number + 1 :]
        later = [each for each in messages if each.get("role") not in ("system", "developer")]
    elif place.section == "system":
        later = [*body["system"][place.number + 1 :], *messages]
    else:
        parts = items(messages[place.number].get("content"))
        at = -1 if place.part is None else place.part
        inside = [] if place.inner is None else parts[at]["content"][place.inner + 1 :]
        after = [] if place.part is None else parts[at + 1 :]
        later = [*inside, *after, *messages[place.number + 1 :]]
    for each in later:
        _say_something_else(each)
    return body


def marked(body: Body, place: Breakpoint) -> Body:
    """What bears the breakpoint goes on, with another text or another tool."""
    body = deepcopy(body)
    if place.section == "tools":
        body["tools"].insert(place.number + 1, _other_tool(like=body["tools"][place.number]))
    elif place.section == "system":
        _go_on(body["system"][place.number])
    else:
        bearer = body["messages"][place.number]
        for at in (place.part, place.inner):
            bearer = bearer if at is None else bearer["content"][at]
        _go_on(bearer)
    return body


def shortened(body: Body, place: Breakpoint) -> Body:
    """All that comes before what bears a breakpoint of a message says something short."""
    body = deepcopy(body)
    for tool in items(body.get("tools")):
        about = tool.get("function", tool)
        for field, short in (("description", OTHER), *((each, _SCHEMA) for each in _SCHEMAS)):
            if field in about:
                about[field] = short
    if isinstance(body.get("system"), str):
        body["system"] = OTHER
    bearer = body["messages"][place.number]
    before = items(bearer.get("content"))[: place.part or 0]
    for each in (*items(body.get("system")), *body["messages"][: place.number], *before):
        _say_something_else(each)
    return body


def ends_message(body: Body, place: Breakpoint) -> bool:
    """Whether the message ends with what bears the breakpoint; never so for a tool."""
    if place.section == "tools":
        return False
    if place.section == "system":
        return place.number == len(body["system"]) - 1
    if place.part is None:
        return True
    parts = items(body["messages"][place.number]["content"])
    part = parts[place.part]
    if place.inner is not None and place.inner < len(items(part["content"])) - 1:
        return False
    # A tool's result becomes a message of its own.
    return place.part == len(parts) - 1 or part.get("type") == "tool_result"


def followed(body: Body, place: Breakpoint) -> Body:
    """What ``continued`` has made, with a next turn if nothing came after the breakpoint."""
    if place.section != "messages" or place.number < len(body["messages"]) - 1:
        return body
    turn = [{"role": role, "content": OTHER} for role in ("assistant", "user")]
    return {**body, "messages": [*body["messages"], *turn]}


def _say_something_else(each: Body) -> None:
    """Change all texts of a message or part, and the calls in it."""
    for field in ("text", "thinking", "content", "reasoning_content"):
        if isinstance(each.get(field), str):
            each[field] = OTHER
    for part in items(each.get("content")):
        _say_something_else(part)
    if each.get("type") == "tool_use":
        each |= {"name": OTHER, "input": {OTHER: OTHER}}
    for call in items(each.get("tool_calls")):
        if isinstance(call.get("function"), dict):
            call["function"] |= {"name": OTHER, "arguments": json.dumps({OTHER: OTHER})}


def _go_on(bearer: Body) -> None:
    """Add a text at the end of a message or part, or an argument to a call."""
    for field in ("text", "thinking", "content"):
        if isinstance(bearer.get(field), str):
            bearer[field] += OTHER
            return
    parts = items(bearer.get("content"))
    if parts and any(isinstance(parts[-1].get(field), str) for field in ("text", "content")):
        _go_on(parts[-1])
    elif parts:
        parts.append({"type": "text", "text": OTHER})
    elif bearer.get("type") == "tool_use":
        bearer["input"] = {**(bearer.get("input") or {}), OTHER: OTHER}
    elif calls := items(bearer.get("tool_calls")):
        _add_argument(calls[-1]["function"])
    else:
        bearer["content"] = OTHER


def _add_argument(function: Body) -> None:
    given = function.get("arguments")
    try:
        arguments: Any = json.loads(given) if isinstance(given, str) else dict(given or {})
    except ValueError:
        arguments = {}
    function["arguments"] = json.dumps({**arguments, OTHER: OTHER})


def _other_tool(like: Body) -> Body:
    if "function" not in like:
        return {"name": OTHER, "description": OTHER, "input_schema": _SCHEMA}
    function = {"name": OTHER, "description": OTHER, "parameters": _SCHEMA}
    return {"type": "function", "function": function}
