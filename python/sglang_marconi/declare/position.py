"""The token at which a breakpoint stands: what all prompts share that go on from there.

A template is a program and a tokenizer merges across borders, so a position cannot be computed from
the text alone. Instead the request is rendered again with something else after the breakpoint. With
``R`` the request's own tokens, ``C`` those with everything after it changed, and ``M`` those with
something added right where it stands:

- ``M`` equals ``C``: the template does not show the place.
- Where ``C`` and ``M`` part, what bears the breakpoint ends.
- ``R`` and ``C`` part before that: the template puts something later before the place, or shows the
  place otherwise, so that no other conversation shares it.
- Where the breakpoint ends a message, the position is where ``R`` and ``C`` part, past what closes
  the message: the next one may say anything.

Last, tokens at the position that another text could merge with are left out.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from sglang_marconi.declare.breakpoints import Body, Breakpoint, BreakpointError
from sglang_marconi.declare.variants import (
    continued,
    ends_message,
    followed,
    marked,
    shortened,
)

Render = Callable[[Body], list[int]]
"""The tokens of the prompt that a request's body makes."""


class Tokenizer(Protocol):
    """What is used of one."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


class Rendered(NamedTuple):
    """A request's body, its tokens, and what makes tokens of other bodies."""

    body: Body
    tokens: list[int]
    render: Render
    tokenizer: Tokenizer


_LONG = 1024
# Tokens before a position that are compared with the prompt's own.
_CONTEXT = 4


def position(request: Rendered, place: Breakpoint) -> int:
    """Tokens of the prompt up to a breakpoint, at least 1 and fewer than all.

    Raises:
        BreakpointError: the template does not show the place, or moves it.
    """
    found = None
    if place.section == "messages" and place.number > 0 and len(request.tokens) > _LONG:
        found = _from_the_end(request, place)
    return _from_the_start(request, place) if found is None else found


def _from_the_end(request: Rendered, place: Breakpoint) -> int | None:
    """The same for a long prompt, of which only the rest is tokenized again.

    What comes before is short instead. ``None`` where that makes a difference to the rest.
    """
    body = shortened(request.body, place)
    try:
        tokens = request.render(body)
        found = _from_the_start(request._replace(body=body, tokens=tokens), place)
    except ValueError:
        return None
    at = found + len(request.tokens) - len(tokens)
    before = min(found, _CONTEXT)
    same = at > before and tokens[found - before :] == request.tokens[at - before :]
    return at if same else None


def _from_the_start(request: Rendered, place: Breakpoint) -> int:
    other = continued(request.body, place)
    without = request.tokens if other == request.body else request.render(other)
    end = shared(without, request.render(marked(other, place)))
    if end == len(without):
        raise BreakpointError(f"{place}: the chat template does not show what ends here")
    if shared(request.tokens, without) < end:
        raise BreakpointError(
            f"{place}: what the chat template shows here depends on what comes later"
        )
    found = end
    if ends_message(request.body, place):
        found = max(end, _past_the_message(request, other, without, place))
    if place.section != "tools":
        found -= _merging(request.tokens[:found], request.tokenizer)
    found = min(found, len(request.tokens) - 1)
    if found < 1:
        raise BreakpointError(f"{place}: nothing comes before this")
    return found


def _past_the_message(request: Rendered, other: Body, without: list[int], place: Breakpoint) -> int:
    """Tokens shared with whatever message comes next; 0 where the template takes none."""
    following = followed(other, place)
    if following is other:
        return shared(request.tokens, without)
    try:
        return shared(request.tokens, request.render(following))
    except ValueError:
        return 0


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    most = min(len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)


_WINDOWS = (32, 24, 16, 8)
# What texts begin with.
_BEGINNINGS = (*string.printable, " a", "\n\n", "é", "的")


def _merging(tokens: Sequence[int], tokenizer: Tokenizer) -> int:
    """How many of the last tokens another text after them could change.

    Seen in the last few only, where they alone are tokenized as they are in the whole.
    """
    for window in _WINDOWS:
        tail = list(tokens[-window:])
        text = tokenizer.decode(tail, skip_special_tokens=False)
        if tokenizer.encode(text, add_special_tokens=False) != tail:
            continue
        kept = min(
            shared(tail, tokenizer.encode(text + more, add_special_tokens=False))
            for more in _BEGINNINGS
        )
        return len(tail) - kept
    return 0
