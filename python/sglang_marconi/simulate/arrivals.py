"""Requests that arrive together: which do, and which of them wait for which.

A server knows of a group of requests before it computes the first of them. What a pass computes,
no other request of that pass sees. If they wait for each other, the first leaves states where
others part from it, and these go in the next round; else all go in one.

Left out: the next group comes when all of this one have ended, in the order in which they began;
and what they hold while they run at the same time takes no room.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.waiting import WaitingPrompts
from sglang_marconi.traces.requests import TraceRequest


class Admitted(NamedTuple):
    """A request of a pass; ``places``: the tokens after which it leaves states for others."""

    request: TraceRequest
    places: Sequence[int] = ()


def groups(
    requests: Sequence[TraceRequest], concurrency: int | None
) -> Iterator[Sequence[TraceRequest]]:
    """Requests that arrive together, in order.

    ``concurrency``: so many at a time, the next ones of different sessions, as a turn comes after
    the one before it; with ``None`` those of one instant.
    """
    if concurrency is None:
        return _of_one_instant(requests)
    return _so_many(requests, concurrency)


def _so_many(requests: Sequence[TraceRequest], count: int) -> Iterator[Sequence[TraceRequest]]:
    turns: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
        turns.setdefault(request.session_id, []).append(number)
    following = {turn: after for numbers in turns.values() for turn, after in pairwise(numbers)}
    # Of each session the next turn.
    due = [numbers[0] for numbers in turns.values()]
    while due:
        group = [heapq.heappop(due) for _ in range(min(count, len(due)))]
        for number in group:
            if number in following:
                heapq.heappush(due, following[number])
        yield [requests[number] for number in group]


def _of_one_instant(requests: Sequence[TraceRequest]) -> Iterator[Sequence[TraceRequest]]:
    group: list[TraceRequest] = []
    for request in requests:
        same = bool(group) and request.arrival == group[0].arrival
        if group and not (same and all(request.session_id != each.session_id for each in group)):
            yield group
            group = []
        group.append(request)
    if group:
        yield group


def rounds(
    requests: Sequence[TraceRequest], cost: ModelCost, resumes: Callable[[TraceRequest], int]
) -> Iterator[list[tuple[int, Admitted]]]:
    """The passes over requests that arrive together; each request with its number.

    ``resumes``: after how many tokens a request could resume now. What one round leaves is to be
    in the cache before the next is asked for.
    """
    tokens = [request.prompt.numbers() for request in requests]
    left = dict(enumerate(requests))
    while left:
        resumed = {number: resumes(request) for number, request in left.items()}
        waiting = WaitingPrompts[int](cost, 1, resumed.__getitem__)
        for number, request in left.items():
            waiting.add(number, None, tokens[number], len(request.prompt) - 1)
        admitted = []
        for number in list(left):
            if waiting.waits(number):
                continue
            waiting.remove(number)
            places = waiting.places(None, tokens[number], resumed[number])
            for place in places:
                waiting.expect(None, tokens[number][:place])
            admitted.append((number, Admitted(left.pop(number), places)))
        yield admitted
