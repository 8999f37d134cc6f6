"""Two answers to one prompt, token by token. Pure.

Once two greedy replies differ in a token, what follows has different prefixes and says nothing.
Up to that place, that place included, both were computed from the same tokens, so the log
probabilities of their likeliest tokens are compared there. A token that changes because two were
almost equally likely then shows as the small shift that it is, and a wide margin overturned as a
large one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

LIKELIEST = 5
"""How many tokens' log probabilities are asked for at each place."""


class Answer(msgspec.Struct, frozen=True):
    """What a server replied to a request.

    ``tokens`` are the ids generated. ``likeliest`` has, for each of them, log probabilities
    (natural) by token id: the likeliest ones and the token's own; empty where they were not asked
    for. ``cached`` is how many tokens of the prompt the server says that it reused, ``finish`` why
    the reply ended.
    """

    tokens: list[int]
    likeliest: list[dict[int, float]]
    cached: int
    finish: str = "length"


class Comparison(NamedTuple):
    """``shifts``: at each place that can be compared, how far log probabilities (nats) moved.

    ``first_difference``: the first place where the tokens differ, or where one reply has ended;
    ``None`` where the replies are the same.
    """

    shifts: tuple[float, ...]
    first_difference: int | None

    @property
    def largest(self) -> float:
        return max(self.shifts, default=0.0)


def compare(answer: Answer, reference: Answer) -> Comparison:
    """Compare an answer with one that has log probabilities.

    Without log probabilities of its own, an answer shows a shift only where its token differs:
    at least half of the reference's margin between the two tokens.
    """
    same = 0
    for token, other in zip(answer.tokens, reference.tokens, strict=False):
        if token != other:
            break
        same += 1
    ended = min(len(answer.tokens), len(reference.tokens)) == same
    first_difference = None if answer.tokens == reference.tokens else same
    comparable = same if ended else same + 1
    if answer.likeliest:
        shifts = [
            _shift(answer.likeliest[place], reference.likeliest[place])
            for place in range(comparable)
        ]
    elif first_difference is not None and not ended:
        place = reference.likeliest[same]
        shifts = [_margin(place, reference.tokens[same], answer.tokens[same]) / 2]
    else:
        shifts = []
    if ended and first_difference is not None:
        # The same tokens, and yet one went on where the other had ended.
        shifts.append(float("inf"))
    return Comparison(tuple(shifts), first_difference)


def _shift(some: Mapping[int, float], others: Mapping[int, float]) -> float:
    """The most that a token of either list moved.

    Of a token in one list only, the other list says that it is no likelier than its last.
    """
    moved = [abs(some[token] - others[token]) for token in some.keys() & others.keys()]
    for there, missing in ((some, others), (others, some)):
        least = min(missing.values())
        moved += [there[token] - least for token in there.keys() - missing.keys()]
    return max(moved)


def _margin(likeliest: Mapping[int, float], chosen: int, other: int) -> float:
    """How much likelier the chosen token is, at least."""
    return likeliest[chosen] - likeliest.get(other, min(likeliest.values()))
