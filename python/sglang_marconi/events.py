"""What happens in the cache, and who hears of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple, ParamSpec, TypeVar

from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.ranking import Standing

logger = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")


class Reason(StrEnum):
    """Why a checkpoint was stored."""

    BRANCH = "branch"
    """Prompts part there."""
    WAITING = "waiting"
    """Requests that wait part there."""
    DECLARED = "declared"
    """The application has said that prompts are going to part there."""
    PROMPT = "prompt"
    """Predicted: the end of a prompt, as far as others share it."""
    BOUNDARY = "boundary"
    """Predicted: what stands before it stood before places where prompts parted."""
    END = "end"
    """The last token of a request."""
    TRACKED = "tracked"
    """Before the last token, whose state could not be kept."""


class Refusal(StrEnum):
    """Why a state was not stored."""

    WORTH = "worth"
    """What would have to go for it is worth more."""
    ROOM = "room"
    """Nothing may go: all is in use."""
    INCOMPLETE = "incomplete"
    """A pass has not written all that it consists of."""


class What(StrEnum):
    """What an eviction takes."""

    STATE = "state"
    LEAF = "leaf"
    """A leaf's KV, and its state if it has one."""


class Decision(StrEnum):
    """What takes time."""

    MATCH = "match"
    """Looking a prompt up, its branch point included."""
    ADMISSION = "admission"
    """Whether a branch point is worth what has to go for it."""
    EVICTION = "eviction"
    """What goes next."""


class Added(NamedTuple):
    """A leaf was added to the tree."""

    node: PrefixNode


class Split(NamedTuple):
    """``upper`` came between ``lower`` and its parent."""

    upper: PrefixNode
    lower: PrefixNode


class Removed(NamedTuple):
    """A leaf is about to leave the tree."""

    node: PrefixNode


class Cleared(NamedTuple):
    """The tree is empty: all there is is ``root``."""

    root: PrefixNode


class Stored(NamedTuple):
    """A checkpoint was stored, in the first form."""

    node: PrefixNode
    reason: Reason


class Dropped(NamedTuple):
    """A checkpoint has left the tree."""

    node: PrefixNode


class Reformed(NamedTuple):
    """A checkpoint is held in the form number ``node.form``, was in ``before``."""

    node: PrefixNode
    before: int


class Evicted(NamedTuple):
    """The policy chose ``node`` to lose something, which is still there.

    ``standing``: how it was judged.
    """

    node: PrefixNode
    what: What
    standing: Standing | None


class Refused(NamedTuple):
    """A checkpoint that was to be stored was not."""

    refusal: Refusal


class Matched(NamedTuple):
    """A request of SGLang's was looked up: the tree has the KV of ``shared`` tokens of it."""

    request: Any
    shared: int


class Prompted(NamedTuple):
    """A request begins to be computed.

    ``shared``: tokens of its prompt whose KV the tree has; ``hit``: those of them that are
    reused, up to the checkpoint at ``resumed``.
    """

    tokens: int
    shared: int
    hit: int
    resumed: PrefixNode | None


class Timed(NamedTuple):
    """A decision took so many seconds."""

    decision: Decision
    seconds: float


class AlphaTuned(NamedTuple):
    """The tuner has replayed a window of requests.

    ``hit_rates``: reused over prompt tokens, by alpha. ``seconds``: what the replay took.
    """

    hit_rates: dict[float, float]
    seconds: float


class AlphaChanged(NamedTuple):
    """The policy weighs efficiency with ``alpha`` from now on; ``None``: it has no alpha now."""

    alpha: float | None


class Observer:
    """Hands what happens to whoever wants to know, in the order of subscription.

    A listener that fails is not asked again: it must not end the scheduler.
    """

    def __init__(self) -> None:
        self._listeners: dict[type, tuple[Callable[[Any], None], ...]] = {}

    def on(self, kind: type[T], listener: Callable[[T], None]) -> None:
        """Call ``listener`` with each event of this kind."""
        self._listeners[kind] = (*self._listeners.get(kind, ()), listener)

    def emit(self, event: object) -> None:
        """It has happened."""
        for listener in self._listeners.get(type(event), ()):
            try:
                listener(event)
            except Exception:
                logger.exception("Marconi: %s has failed and is switched off", listener)
                self._drop(listener)

    def _drop(self, listener: Callable[[Any], None]) -> None:
        # A listener whose view has a hole is of no use: all that it is part of goes.
        owner = getattr(listener, "__self__", listener)
        for kind, listeners in self._listeners.items():
            self._listeners[kind] = tuple(
                other for other in listeners if getattr(other, "__self__", other) is not owner
            )


def timed(
    observer: Observer | None,
    decision: Decision,
    decide: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """What ``decide`` returns; how long it took goes to the observer, if there is one."""
    if observer is None:
        return decide(*args, **kwargs)
    start = time.perf_counter()
    result = decide(*args, **kwargs)
    observer.emit(Timed(decision, time.perf_counter() - start))
    return result
