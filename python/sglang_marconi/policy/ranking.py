"""What orders the candidates of an eviction: the contract between tree and valuation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from sglang_marconi.policy.choice import Place
from sglang_marconi.policy.ledger import PrefixNode


class Candidate(NamedTuple):
    """What evicting a node, or demoting its state, would give up and free.

    ``efficiency``: FLOPs of a hit on it that are given up for each byte that is freed.
    ``resumable``: a prompt can resume there. ``referenced``: an open session refers to it, or a
    request that waits is about to resume there; such candidates come after all others.
    ``demotion``: it would keep its state, in less room.
    """

    efficiency: float
    resumable: bool
    referenced: bool
    demotion: bool = False


class Standing(NamedTuple):
    """Where a candidate stands: groups go one after the other, within one the least score first."""

    group: str
    score: float


class Placed(NamedTuple):
    """What a ranking knows a candidate by: what it is ordered by, but for what is learned."""

    node: PrefixNode
    group: str
    efficiency: float
    last_use: float


class Ranking(ABC):
    """The candidates of one eviction.

    What it answers depends only on the sequence of calls, so that it is the same in every
    process.
    """

    @abstractmethod
    def place(self, node: PrefixNode, candidate: Candidate) -> None:
        """Make ``node`` a candidate, or bring it up to date."""

    @abstractmethod
    def discard(self, node: PrefixNode) -> None:
        """``node`` is no candidate, if it was one."""

    @abstractmethod
    def least_useful(self) -> PrefixNode | None:
        """The candidate that goes first; ``None`` without any."""

    @abstractmethod
    def standing(self, node: PrefixNode) -> Standing | None:
        """How ``node`` is judged now, to be shown to a person; ``None`` if it is no candidate.

        Changes nothing, so that one process may ask without the others.
        """

    @abstractmethod
    def placed(self) -> Iterator[Placed]:
        """Every candidate, in no order, to be compared with what it should be."""

    def admits(self, efficiency: float, place: Place, chance: float) -> bool:
        """Whether a new checkpoint is to be stored, though what goes first has to go for it.

        ``efficiency`` as in `Candidate`; ``place`` and ``chance``: what it is
        kept for, and how likely it is used.
        """
        return True


class Valuation(ABC):
    """How much prefixes are worth: makes rankings, and may learn from what happens to states.

    ``now`` is the ledger's clock, in insertions. What there is nothing to learn from is ignored.
    One that can be chosen by its name (``registry``) can be made without arguments.
    """

    name = ""
    """What the registry calls it."""
    alpha: float | None = None
    """The weight of a policy that has one."""
    weighs_guesses = False
    """Whether it tells what is kept for a prediction from what is known to be used."""

    @abstractmethod
    def ranking(self) -> Ranking:
        """A new ranking, without candidates."""

    def clear(self) -> None:  # noqa: B027
        """The tree is empty again."""

    def seen(self, node: PrefixNode, now: float) -> None:  # noqa: B027
        """``node`` has a state; it may have become another kind of node."""

    def used(self, node: PrefixNode, now: float) -> None:  # noqa: B027
        """A prompt resumes at ``node``'s state, last used at ``node.last_use``."""

    def gone(self, node: PrefixNode, now: float) -> None:  # noqa: B027
        """``node`` is about to lose its state."""
