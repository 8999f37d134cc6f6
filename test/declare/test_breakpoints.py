"""Which breakpoints a request's body has."""

from __future__ import annotations

from typing import Any

import pytest
from sglang_marconi.declare.breakpoints import BreakpointError, breakpoints

CACHED = {"cache_control": {"type": "ephemeral"}}


def found(**body: Any) -> list[str]:
    return [str(place) for place in breakpoints(body)]


def text(content: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": content, **more}


def user(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts), **more}


def test_none_without_the_field() -> None:
    plain = user(text("a"), text("b", cache_control=None))
    assert found(messages=[plain, {"role": "user", "content": "c"}], tools=None, system="s") == []
    assert found(text="a prompt") == []


def test_wherever_clients_put_it() -> None:
    tools = [{"name": "a"}, {"name": "b", **CACHED}]
    system = [text("a", **CACHED), text("b")]
    result = {"type": "tool_result", "content": [text("a"), text("b", **CACHED)]}
    messages = [user(text("a", **CACHED), text("b")), user(result)]
    assert found(tools=tools, system=system, messages=messages) == [
        "tools[1]",
        "system[0]",
        "messages[0].content[0]",
        "messages[1].content[0].content[1]",
    ]
    function = {"type": "function", "function": {"name": "a", **CACHED}}
    assert found(tools=[function], messages=[user(text("a"))]) == ["tools[0]"]


def test_on_a_message_or_on_all_it_is_at_the_end() -> None:
    messages = [{"role": "system", "content": "s", **CACHED}, user(text("a"), text("b"), **CACHED)]
    assert found(messages=messages) == ["messages[0]", "messages[1].content[1]"]
    # The same place twice is one breakpoint.
    assert found(messages=messages[1:], **CACHED) == ["messages[0].content[1]"]
    assert found(messages=[{"role": "user", "content": "a"}], **CACHED) == ["messages[0]"]
    assert found(messages=[{"role": "assistant", "tool_calls": []}], **CACHED) == ["messages[0]"]


def test_four_at_most() -> None:
    parts = [text(str(number), **CACHED) for number in range(5)]
    assert len(found(messages=[user(*parts[:4])])) == 4
    with pytest.raises(BreakpointError, match=r"at most 4 .* found 5"):
        found(messages=[user(*parts)])
    with pytest.raises(BreakpointError, match="found 5"):
        found(messages=[user(*parts[:4]), user(text("a"))], **CACHED)


@pytest.mark.parametrize("control", [{"type": "lasting"}, {}, "ephemeral", 1])
def test_of_an_unknown_type(control: object) -> None:
    part = text("a", cache_control=control)
    with pytest.raises(BreakpointError, match=r"messages\[0\].content\[0\]: .*ephemeral"):
        found(messages=[user(part)])


def test_how_long_it_is_to_be_kept_is_not_asked() -> None:
    part = text("a", cache_control={"type": "ephemeral", "ttl": "1h", "scope": "global"})
    assert found(messages=[user(part)]) == ["messages[0].content[0]"]
