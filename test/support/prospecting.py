"""A server that predicts where prompts are left, without a model or a tree."""

from __future__ import annotations

from array import array
from itertools import count

import numpy as np
from sglang_marconi.policy.choice import Place, Prospect
from sglang_marconi.policy.prospects import Prospects, Trail

USER, ASSISTANT, THINK, END, CALL = 1, 2, 3, 4, 5


class Server:
    """Requests one after the other; nothing of them is forgotten, or all (``forgets``).

    What a prompt shares with earlier requests goes up to its last token.
    """

    def __init__(self, page_size: int = 1, *, forgets: bool = False) -> None:
        self.prospects = Prospects(page_size)
        self._page_size = page_size
        self.forgets = forgets
        self.past: list[tuple[list[int], Trail]] = []
        self._fresh = count(1000)

    def words(self, number: int) -> list[int]:
        """Tokens that nobody has asked for yet."""
        return [next(self._fresh) for _ in range(number)]

    def ask(
        self, prompt: list[int], reply: list[int] | None = None, above: int | None = None
    ) -> list[Prospect]:
        """A request; the places where it is predicted to be left."""
        trail, found = self.begin(prompt, above)
        self.end(trail, prompt, self.words(20) if reply is None else reply)
        return found

    def begin(
        self, prompt: list[int], above: int | None = None, cut: float = 0.0
    ) -> tuple[Trail, list[Prospect]]:
        """A request arrives: what `Prospects.arrived` says of it."""
        shared, left = self.shared(prompt)
        ids = array("q", prompt)
        answer = self.prospects.arrived(
            np.frombuffer(ids, np.int64),
            shared,
            shared if above is None else above,
            left,
            cut=cut,
        )
        # A request's tokens, which cannot grow while anybody keeps a view of them.
        ids.append(0)
        return answer

    def end(self, trail: Trail, prompt: list[int], reply: list[int]) -> float:
        sequence = prompt + reply
        end = (len(sequence) - 1) // self._page_size * self._page_size
        ids = array("q", sequence)
        chance = self.prospects.ended(trail, np.frombuffer(ids, np.int64), end)
        ids.append(0)
        self.past.append((sequence[:end], trail))
        return chance

    def chance_of_end(self, prompt: list[int], reply: list[int]) -> float:
        """How likely a request that ends so is gone on from, in parts of what is usual."""
        trail, _ = self.begin(prompt)
        return self.end(trail, prompt, reply)

    def shared(self, prompt: list[int]) -> tuple[int, Trail | None]:
        longest, left = 0, None
        for sequence, trail in () if self.forgets else self.past:
            shared = common(sequence, prompt[:-1])
            if shared > longest:
                longest, left = shared, trail
        return longest, left


def common(one: list[int], other: list[int]) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def places(found: list[Prospect]) -> list[tuple[int, Place]]:
    return [(each.tokens, each.place) for each in found]


def document(server: Server, tokens: int) -> list[int]:
    return [USER, *server.words(tokens), 11, 12, 13]
