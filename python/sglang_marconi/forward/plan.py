"""Which states a forward pass is to leave in which slots, and which of them it has left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

Part = tuple[str, int | None]
"""A tensor that a state consists of, and the layer that it belongs to, if it belongs to one."""


class Row(NamedTuple):
    """A request in a pass: its number of tokens there, and whether they follow others."""

    tokens: int
    resumes: bool


class Place(NamedTuple):
    """Where a state is taken: behind ``tokens`` of the tokens that row ``row`` has in the pass.

    Not at the end of a row: there the pass leaves a state anyway.
    """

    row: int
    tokens: int


class PassPlan:
    """The states to take in one pass over prompts that lie end to end.

    Operations write them with ``put``, each for the layer that is being computed. Tensors are made
    when an operation first asks for them, on the stream that it runs on.

    Args:
        rows: the requests of the pass, in order, those included that only decode a token.
        places: where states are taken, in order, each once; ``1 <= tokens < rows[row].tokens``.
        slots: int64 ``[1]`` each, the slots of SGLang's state pool that they go to.
    """

    def __init__(
        self, rows: Sequence[Row], places: Sequence[Place], slots: Sequence[Tensor]
    ) -> None:
        assert len(places) == len(slots), "one slot for each place"
        assert list(places) == sorted(set(places)), "places in order, each once"
        assert all(1 <= place.tokens < rows[place.row].tokens for place in places)
        self.rows = tuple(rows)
        self.places = tuple(places)
        self.starts = tuple(accumulate((row.tokens for row in rows), initial=0))[:-1]
        # The layer that is being computed, and what the state pool has of it (`MambaPool.State`).
        self.layer_id: int | None = None
        self.layer: Any = None
        self.declined = False
        self._slots = tuple(slots)
        self._made: dict[str, Tensor] = {}
        self._written: set[Part] = set()

    @property
    def slots(self) -> Tensor:
        """int64 ``[places]``: where each state goes."""
        return self.tensor("slots", lambda: torch.cat([slot.view(1) for slot in self._slots]))

    @property
    def ends(self) -> list[int]:
        """Where each place is among all tokens of the pass."""
        return [self.starts[row] + tokens for row, tokens in self.places]

    def covers(self, tokens: int) -> bool:
        """Whether what computes ``tokens`` tokens has all of the pass, perhaps with padding behind.

        Half of a batch that is computed in two overlapping parts has not, for one.
        """
        return tokens >= self.starts[-1] + self.rows[-1].tokens

    def rows_of_places(self, like: Tensor) -> Tensor:
        """int64 ``[places]``, on the device of ``like``: the row of each place."""
        return self.integers("rows of places", lambda: [row for row, _ in self.places], like)

    def tensor(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives, made once for all layers of the pass."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def integers(
        self,
        name: str,
        numbers: Callable[[], Sequence[int]],
        like: Tensor,
        dtype: torch.dtype = torch.int64,
    ) -> Tensor:
        """Numbers on the device of ``like``, made once, without waiting for the device."""

        def make() -> Tensor:
            pinned = like.device.type == "cuda"
            host = torch.tensor(numbers(), dtype=dtype, pin_memory=pinned)
            return host.to(like.device, non_blocking=True)

        return self.tensor(name, make)

    # ---- what was written ----

    def decline(self) -> None:
        """This pass is one that an operation leaves no states in, though it does in others."""
        self.declined = True

    def at_layer(self, layer_id: int, layer: Any) -> None:
        """What follows is computed for this layer."""
        self.layer_id, self.layer = layer_id, layer

    def lacks(self, part: str, layer_id: int | None = None) -> bool:
        """Whether this part of a layer's states is not written yet."""
        return (part, layer_id) not in self._written

    def put(self, part: str, layer_id: int | None, values: Tensor, into: Tensor) -> None:
        """Write one part of all states: ``values [places, ...]`` into slots of ``into``."""
        into[self.slots] = values.to(into.dtype)
        self._written.add((part, layer_id))

    def missing(self, parts: Iterator[Part]) -> list[Part]:
        """Those of ``parts`` that no operation has written: then no state is whole."""
        return [part for part in parts if part not in self._written]


_plans: list[PassPlan] = []


def current() -> PassPlan | None:
    """The plan of the pass that is running, if it has one."""
    return _plans[-1] if _plans else None


@contextmanager
def carried_out(plan: PassPlan | None) -> Iterator[None]:
    """What is computed inside is the pass that ``plan`` is for; ``None``: a pass without one."""
    if plan is None:
        yield
        return
    _plans.append(plan)
    try:
        yield
    finally:
        _plans.pop()
