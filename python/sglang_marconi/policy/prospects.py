"""Where a prompt will be left by later ones, predicted from where earlier ones were.

A request adds *places* to the tree, at which a later prompt may resume:

- **the end of its reply**, where the next turn goes on from all of it;
- **the end of its prompt**, as far as the template lets another prompt share it: what comes next
  is the same prompt again, another turn without the reply's reasoning, or a retry. How far
  before the end that is, is learned;
- **boundaries** inside its prompt, as the end of a system prompt, a list of tools, a document. One
  is known by the tokens before it (``signatures``).

Each has a chance that is learned: of places like it, how many did a later prompt reach, and
none behind it? That is counted once for each place, and remembered without its tokens
(``remembered``), so that it does not depend on what the cache has room for. Which places are worth
a state, ``choice`` says. Nothing is predicted before it was seen: on traffic that leaves no prompt
at such places, nothing is kept for them.
"""

from __future__ import annotations

from enum import IntEnum
from math import inf

import numpy as np
from numpy.typing import NDArray

from sglang_marconi.policy.choice import Place, Prospect, choose
from sglang_marconi.policy.likelihood import Keys, Likelihood
from sglang_marconi.policy.remembered import Prefixes, Remembered, hash_of
from sglang_marconi.policy.signatures import Name, Read, Signatures

Ids = NDArray[np.int64]
"""Token ids, of shape ``[tokens]``."""

LEAST = 10.0
"""Tokens that a state is expected to save, at least, to be kept for a prediction."""

_TAIL = 16
"""So many KV pages, often of one token, before the end of a prompt are its end."""
_PROMPT_WIDTHS, _REPLY_WIDTHS = (6, 10), (1, 3)
_NO_PROMPT, _SOME_REPLIES = 0.0, 0.3
"""How likely prompts and replies are resumed at before anything was seen."""
_FADE = 0.998
"""What a prompt that was left at its end leaves of what earlier ones say of where that is."""
_SHORTLIST = 32


class Came(IntEnum):
    """Where a prompt goes on from another one."""

    NOWHERE = 0
    REPLY = 1
    PROMPT = 2
    BOUNDARY = 3


class Trail:
    """What one request has added to the tree.

    In tokens from the start: ``prompt`` and ``end``, how far its prompt and its reply go; 0 for a
    reply that has not ended, or of which nothing is kept. ``hashed``: that of the prompt
    (`hash_of`), in its namespace.
    """

    __slots__ = ("end", "hashed", "namespace", "prompt")

    def __init__(self, prompt: int, hashed: int, namespace: int) -> None:
        self.prompt = prompt
        self.hashed = hashed
        self.namespace = namespace
        self.end = 0


class _Seen:
    """A place of a past request: what it is known by, and whether a prompt has gone on there."""

    __slots__ = ("came", "known_by", "used")

    def __init__(self, came: Came, known_by: Keys | Name) -> None:
        self.came = came
        self.known_by = known_by
        self.used = False


class Prospects:
    """Learns where prompts are left, and says where the next one will be.

    What it answers depends on the order of calls alone, so that it is the same in every process.

    Args:
        page_size: of KV in tokens; states stand on whole pages.
    """

    def __init__(self, page_size: int = 1) -> None:
        self._page_size = page_size
        self._signatures = Signatures()
        self._prompts = Likelihood(_PROMPT_WIDTHS, _NO_PROMPT)
        self._replies = Likelihood(_REPLY_WIDTHS, _SOME_REPLIES)
        self._places: Remembered[_Seen] = Remembered()
        self._prefixes = Prefixes()
        # How many prompts were left so many pages before their end, and so many or fewer.
        self._before_end = np.zeros(_TAIL + 1)
        self._served: list[float] = self._before_end.tolist()

    def arrived(
        self,
        tokens: Ids,
        shared: int,
        above: int,
        left: Trail | None,
        namespace: int = 0,
        cut: float = 0.0,
    ) -> tuple[Trail, list[Prospect]]:
        """A prompt leaves the tree after ``shared`` tokens, where ``left`` was added to it.

        ``above``: after how many tokens it resumes, or leaves the last state that is sure.
        ``namespace``: below 2**64; prompts of different ones share no state. ``cut``: tokens
        that a pass takes, where a prefill has to be cut for a state inside the prompt.
        Returns what it adds to the tree, and the places in it that are worth a state, in order.
        """
        signatures, prefixes = Read(tokens), self._prefixes
        prefixes.read(tokens, namespace)
        came = Came.NOWHERE
        reached = self._places.reached(prefixes)
        if reached is not None:
            came = reached.came
            self._use(reached)
        if left is not None and shared:
            self._part(signatures, shared, left)
        end = self._prompt_end(len(tokens))
        found = self._boundaries(signatures, shared, above, end)
        if end > 0:
            keys = self._prompts.keys(tokens, end, came)
            hashed = prefixes.at(end)
            if hashed not in self._places:
                self._prompts.passed(keys)
                self._places.add(hashed, end, _Seen(Came.PROMPT, keys))
            chance = self._prompts.chance(keys)
            if end > shared and chance > 0.0:
                found.append(Prospect(end, Place.PROMPT, chance))
        trail = Trail(len(tokens), prefixes.at(len(tokens)), namespace)
        return trail, choose(found, above, LEAST, cut, len(tokens))

    def ended(self, trail: Trail, tokens: Ids, end: int) -> float:
        """The request's state stands after ``end`` of its tokens, prompt and reply.

        Returns how likely it is resumed there, in parts of what is usual: 1 where nothing tells
        it from others.
        """
        if end >= trail.prompt:
            trail.end = end
        keys = self._replies.keys(tokens, end)
        # What is known of the prompt need not be found again, unless the end is inside it.
        start, before = (
            (trail.prompt, trail.hashed) if end >= trail.prompt else (0, trail.namespace)
        )
        hashed = hash_of(tokens[:end], start, before)
        if hashed not in self._places:
            self._replies.passed(keys)
            self._places.add(hashed, end, _Seen(Came.REPLY, keys))
        return self._replies.chance(keys) / self._replies.average()

    def _use(self, place: _Seen) -> None:
        if place.used:
            return
        place.used = True
        if isinstance(place.known_by, Name):
            self._signatures.used(place.known_by)
        elif place.came is Came.PROMPT:
            self._prompts.used(place.known_by)
        else:
            self._replies.used(place.known_by)

    def _part(self, prompt: Read, at: int, left: Trail) -> None:
        """Learn where the ends of prompts are, and what stands before other places."""
        if left.end and at >= left.end:
            return
        before_end = left.prompt // self._page_size - at // self._page_size
        if before_end > _TAIL:
            self._signatures.parted(prompt, at)
            return
        self._before_end *= _FADE
        self._before_end[max(before_end, 0)] += 1.0
        self._served = np.cumsum(self._before_end).tolist()

    def _prompt_end(self, length: int) -> int:
        """Where a state serves most of those that leave a prompt of this length at its end."""
        pages = length // self._page_size
        best, most = pages, -inf
        for before, served in enumerate(self._served):
            saved = served * (pages - before)
            if saved > most:
                best, most = pages - before, saved
        return best * self._page_size

    def _boundaries(self, prompt: Read, shared: int, above: int, end: int) -> list[Prospect]:
        """Those that the prompt adds before ``end``."""
        if not len(self._signatures):
            return []
        places, keys = self._signatures.find(prompt, shared)
        places, keys = places[places < end], keys[places < end]
        if not len(places):
            return []
        chances = self._signatures.chances(keys)
        # The others count as if they were not there.
        best = np.sort(np.argsort(-chances * (places - above), kind="stable")[:_SHORTLIST])
        places, keys, chances = places[best], keys[best], chances[best]
        new = ~self._places.known(self._prefixes, places)
        self._signatures.passed(keys[new])
        found = []
        for place, key, chance, is_new in zip(
            places.tolist(), keys.tolist(), chances.tolist(), new.tolist(), strict=True
        ):
            if is_new:
                name = self._signatures.name(key)
                self._places.add(self._prefixes.at(place), place, _Seen(Came.BOUNDARY, name))
            at = place // self._page_size * self._page_size
            if at > shared:
                found.append(Prospect(at, Place.BOUNDARY, chance))
        return found
