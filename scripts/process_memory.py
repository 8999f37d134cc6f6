"""The memory of a process with all its descendants, and how it grows."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations
from statistics import median
from typing import NamedTuple

import psutil

_POINTS = 120


class Point(NamedTuple):
    """Resident bytes at a time in seconds."""

    seconds: float
    resident: int


def resident_bytes(pid: int) -> int:
    """Of the process and its descendants; 0 for those that have ended."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
    return total


def slope(points: Sequence[Point]) -> float:
    """Bytes a second by Theil and Sen: the median over all pairs, which peaks hardly move."""
    some = points[:: len(points) // _POINTS + 1]
    slopes = [
        (later.resident - earlier.resident) / (later.seconds - earlier.seconds)
        for earlier, later in combinations(some, 2)
        if later.seconds > earlier.seconds
    ]
    return median(slopes) if slopes else 0.0


def halves(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Before and after the middle of the time."""
    middle = (points[0].seconds + points[-1].seconds) / 2
    first = [point for point in points if point.seconds <= middle]
    return first, list(points[len(first) :])
