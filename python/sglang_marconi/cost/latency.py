"""Time to first token by how many tokens have to be computed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np


class LatencyProfileError(ValueError):
    """A file that holds no latency profile."""


class LatencyProfile:
    """Points measured on an idle server, with straight lines between and beyond them.

    ``points``: (tokens computed, seconds to the first token), at least two, tokens rising.
    """

    def __init__(self, points: list[tuple[int, float]]) -> None:
        tokens = [count for count, _ in points]
        if len(points) < 2 or any(a >= b for a, b in pairwise(tokens)):
            raise LatencyProfileError("a latency profile is two or more points of rising tokens")
        self._tokens = np.array(tokens, float)
        self._seconds = np.array([seconds for _, seconds in points])

    @classmethod
    def read(cls, path: Path) -> LatencyProfile:
        """Read a JSON array of ``[tokens, seconds]``.

        Raises:
            LatencyProfileError: it is something else; the message names the file.
        """
        try:
            return cls(msgspec.json.decode(path.read_bytes(), type=list[tuple[int, float]]))
        except (msgspec.DecodeError, LatencyProfileError) as error:
            raise LatencyProfileError(f"{path}: {error}") from error

    def ttft(self, computed_tokens: int) -> float:
        """Seconds to the first token of a prompt that leaves so many tokens to compute."""
        last = self._tokens[-1]
        if computed_tokens <= last:
            return float(np.interp(computed_tokens, self._tokens, self._seconds))
        slope = (self._seconds[-1] - self._seconds[-2]) / (last - self._tokens[-2])
        return float(self._seconds[-1] + slope * (computed_tokens - last))
