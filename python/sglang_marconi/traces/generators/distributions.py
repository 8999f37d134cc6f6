"""How many: the distributions that turns and message lengths are drawn from."""

from abc import abstractmethod
from math import log
from typing import NamedTuple, Protocol

from numpy.random import Generator


class Distribution(Protocol):
    """A distribution of whole numbers from 1."""

    @abstractmethod
    def draw(self, random: Generator) -> int:
        """One number, at least 1."""


class Geometric(NamedTuple):
    """Each number ends the count with the same chance, 1 / `mean`; `mean` is at least 1."""

    mean: float

    def draw(self, random: Generator) -> int:
        return int(random.geometric(1 / self.mean))


class LogNormal(NamedTuple):
    """Rounded from a log-normal variable of this mean, whose logarithm deviates by `sigma`.

    Raised to 1 where it rounds to 0, so that the mean of what is drawn is a little higher.
    """

    mean: float
    sigma: float

    def draw(self, random: Generator) -> int:
        value = random.lognormal(log(self.mean) - self.sigma**2 / 2, self.sigma)
        return max(1, round(value))
