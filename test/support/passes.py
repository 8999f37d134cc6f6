"""Passes over prompts of any lengths, with places in them, and slots for what is taken there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from sglang_marconi.forward.plan import PassPlan, Place, Row
from torch import Tensor

# Inside of any window, and around ends of chunks.
_EDGES = (1, 2, 3, 4, 5, 63, 64, 65, 127, 128, 129, 255, 256, 257)
_SPARE = 3


class Prefix(NamedTuple):
    """A place, as a prefill that ends there sees it: tokens ``begin`` to ``end`` of the pass."""

    row: int
    begin: int
    end: int
    resumes: bool
    slot: int


@dataclass(frozen=True)
class SomePass:
    """Rows of a pass, places in them, and the slots of both, all different.

    Attributes:
        live: int64 ``[rows]``, the slot that each row computes in.
        taken: int64 ``[places]``, the slot that each state goes to.
        slots: how many slots there are; some are nobody's.
    """

    rows: tuple[Row, ...]
    places: tuple[Place, ...]
    live: Tensor
    taken: Tensor
    slots: int

    @classmethod
    def of(cls, rows: list[Row], places: list[Place], seed: int = 0) -> SomePass:
        """With slots in any order."""
        slots = len(rows) + len(places) + _SPARE
        order = torch.randperm(slots, generator=torch.Generator().manual_seed(seed))
        live, taken, _ = order.split([len(rows), len(places), _SPARE])
        return cls(tuple(rows), tuple(places), live, taken, slots)

    @classmethod
    def random(cls, seed: int, longest: int = 300) -> SomePass:
        """A few prompts, those behind with a token each as where decoding rows are mixed in."""
        draw = random.Random(seed)
        rows = [
            Row(draw.choice((draw.randint(2, 6), draw.randint(2, longest))), draw.random() < 0.5)
            for _ in range(draw.randint(1, 5))
        ]
        rows += [Row(1, True)] * draw.choice((0, 0, 2))
        places = set()
        for row, (tokens, _) in enumerate(rows):
            wanted = [tokens - 1, draw.randint(1, tokens), *draw.sample(_EDGES, 4)]
            count = draw.choice((0, 1, 4)) if row else 4
            places |= {Place(row, at) for at in wanted[:count] if 0 < at < tokens}
        return cls.of(rows, sorted(places), seed)

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.rows)

    @property
    def lengths(self) -> list[int]:
        return [row.tokens for row in self.rows]

    @property
    def bounds(self) -> Tensor:
        """int32 ``[rows + 1]``: where each row begins."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32)

    @property
    def resumed(self) -> Tensor:
        """bool ``[rows]``."""
        return torch.tensor([row.resumes for row in self.rows])

    def plan(self) -> PassPlan:
        return PassPlan(self.rows, self.places, self.taken.split(1))

    def prefixes(self) -> Iterator[Prefix]:
        """One for each place, in order."""
        starts = self.bounds.tolist()
        for (row, tokens), slot in zip(self.places, self.taken.tolist(), strict=True):
            begin = starts[row]
            yield Prefix(row, begin, begin + tokens, self.rows[row].resumes, slot)

    def untouched(self) -> Tensor:
        """int64: slots that no row has and nothing goes to."""
        used = set(self.live.tolist()) | set(self.taken.tolist())
        return torch.tensor([slot for slot in range(self.slots) if slot not in used])


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """Within 1e-5 of the largest value."""
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
