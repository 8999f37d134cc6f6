"""Which of the places where a prompt may be left are worth a state, each beside the others."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np


class Place(IntEnum):
    """What a state is kept for, from most to least certain."""

    END = 0
    """A request has ended there."""
    BRANCH = 1
    """Prompts have parted there."""
    WAITING = 2
    """Requests that wait part there."""
    DECLARED = 3
    """The application says so."""
    PROMPT = 4
    """Predicted: the end of a prompt, as far as others share it."""
    BOUNDARY = 5
    """Predicted: what stands before it stood before places where prompts parted."""

    @property
    def is_guess(self) -> bool:
        """Whether nobody has used the place, asked for it, or said that it will be used."""
        return self >= Place.PROMPT


class Prospect(NamedTuple):
    """A place in a prompt, after ``tokens`` of it, at which a later one may resume.

    ``chance``: of that, from 0 to 1.
    """

    tokens: int
    place: Place
    chance: float


_MOST = 6
"""States that are predicted in one prompt."""
_LEAST_CHANCE = 0.1
"""Of a place, to be considered. A state that is hardly ever used does harm: what stands below it
seems to save no more than what lies between the two, and goes."""


def choose(
    prospects: Sequence[Prospect], above: int, least: float, cut: float = 0.0, end: int = 0
) -> list[Prospect]:
    """The prospects that are worth a state, in order, each with the chance that it is used.

    Whoever leaves the prompt at a place resumes at the last state before it, so that one state
    serves all places up to the next. Chosen is what saves most beyond those chosen before, as
    long as that is ``least`` tokens by expectation. Places that are hardly ever used do not count.
    ``above``: where all would resume now. ``cut``: tokens more that a state has to save but at
    ``end``, where the prefill need not be cut for it.
    """
    prospects = [each for each in prospects if each.chance >= _LEAST_CHANCE]
    if not prospects:
        return []
    places = np.array([prospect.tokens for prospect in prospects])
    chances = np.array([prospect.chance for prospect in prospects])
    served = np.full(len(places), above)
    reached = places[:, None] <= places  # [state, who leaves]
    needed = least + cut * (places != end)
    chosen: list[int] = []
    while len(chosen) < _MOST:
        saved = (np.maximum(places[:, None] - served, 0) * reached) @ chances
        best = int((saved - needed).argmax())
        if saved[best] < needed[best]:
            break
        chosen.append(best)
        served = np.where(reached[best], np.maximum(served, places[best]), served)
    return [
        _serving(
            prospects[each].tokens, [prospects[i] for i in (served == places[each]).nonzero()[0]]
        )
        for each in sorted(chosen, key=lambda each: prospects[each].tokens)
    ]


def _serving(tokens: int, those: Sequence[Prospect]) -> Prospect:
    """A state that serves several places; it is kept for the most likely of them."""
    chance = min(sum(each.chance for each in those), 1.0)
    return Prospect(tokens, max(those, key=lambda each: each.chance).place, chance)
