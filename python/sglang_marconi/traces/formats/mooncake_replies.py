"""What requests known by the hashes of their prompts' blocks were replied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np

from sglang_marconi.traces.tokens import Tokens

BLOCK = 512
"""Tokens in a block; a prompt's last block, its tail, may be cut short."""


class Hashed(NamedTuple):
    """A request; `number` is its own among those of a trace, lengths are in tokens."""

    number: int
    hashes: Sequence[int]
    prompt_length: int
    reply_length: int

    @property
    def full_blocks(self) -> int:
        return self.prompt_length // BLOCK

    @property
    def problem(self) -> str | None:
        """Why this cannot be, if it cannot."""
        if len(self.hashes) == -(-self.prompt_length // BLOCK):
            return None
        blocks = f"{len(self.hashes)} blocks of {BLOCK} tokens"
        return f"{blocks} do not make {self.prompt_length} tokens"


class _Rest(NamedTuple):
    """The blocks that a request's tail and reply fill, the first from its `cut`th token on.

    `tail_of` is the number of the request whose own tail is the last of them.
    """

    blocks: list[int]
    cut: int
    tail_of: int | None


class Replies:
    """Prompts and replies of a trace that has no replies, read out of later prompts.

    The first later prompt that has all full blocks of a prompt, and is long enough to hold its
    tail and reply, is taken to continue it: what it has there are the tail and the reply. It may
    be another conversation that starts alike; its blocks do not say. Where there is none,
    the reply is tokens that occur nowhere else. A prompt of no full block has none.

    `requests` are all of the trace, in its order; none has a `problem`. Of those that no later
    prompt has continued yet, a hash and the lengths are held in memory, of the others the blocks
    of the reply.
    """

    def __init__(self, requests: Iterable[Hashed]) -> None:
        self._rests: dict[int, _Rest] = {}
        last = self._find(requests)
        # From the last on: a tail that is itself read out of a later prompt is so already.
        for earlier in sorted(self._rests, reverse=True):
            rest = self._rests[earlier]
            if rest.tail_of in self._rests:
                rest.blocks[-1] = self._rests[rest.tail_of].blocks[0]
        self._parts = self._cut(first_name=-2 - last)

    def _find(self, requests: Iterable[Hashed]) -> int:
        """Fill `_rests` with what the requests say themselves; returns the last one's number."""
        # By the prefix: how long a prompt has to be, the request's number, its prompt's length.
        waiting: dict[int, list[tuple[int, int, int]]] = {}
        number = 0
        for request in requests:
            number = request.number
            prefix = 0
            for depth, prefix in enumerate(_prefixes(request), start=1):
                heap = waiting.get(prefix, [])
                while heap and heap[0][0] <= request.prompt_length:
                    end, earlier, length = heappop(heap)
                    blocks = request.hashes[depth : -(-end // BLOCK)]
                    in_tail = end > request.full_blocks * BLOCK
                    rest = _Rest([*blocks], length % BLOCK, number if in_tail else None)
                    self._rests[earlier] = rest
                if not heap:
                    waiting.pop(prefix, None)
            if request.full_blocks:
                end = request.prompt_length + request.reply_length
                heappush(waiting.setdefault(prefix, []), (end, number, request.prompt_length))
        return number

    def _cut(self, first_name: int) -> dict[int, list[tuple[int, int]]]:
        """Blocks that tails end in, as parts: where each ends in the block, and its name.

        A prompt and its reply would else be parts of one run. The first part has the block's
        name, the others have negative ones from `first_name` down.
        """
        cuts: dict[int, set[int]] = {}
        for rest in self._rests.values():
            if rest.cut:
                cuts.setdefault(rest.blocks[0], set()).add(rest.cut)
        parts: dict[int, list[tuple[int, int]]] = {}
        name = first_name
        for block, places in cuts.items():
            parts[block] = []
            for end in (*sorted(places), BLOCK):
                parts[block].append((end, name if parts[block] else block))
                name -= 1
        return parts

    def tokens(self, request: Hashed) -> tuple[Tokens, Tokens]:
        """The prompt and the reply of one of the requests."""
        rest = self._rests.get(request.number)
        if rest is None:
            prompt = self._blocks(request.hashes, request.prompt_length)
            return prompt, _unnamed(-1 - request.number, request.reply_length)
        blocks = [*request.hashes[: request.full_blocks], *rest.blocks]
        both = self._blocks(blocks, request.prompt_length + request.reply_length)
        runs = int(both.ends.searchsorted(request.prompt_length)) + 1
        reply = Tokens(both.ids[runs:], both.ends[runs:] - request.prompt_length)
        return Tokens(both.ids[:runs], both.ends[:runs]), reply

    def _blocks(self, blocks: Sequence[int], length: int) -> Tokens:
        """`length` tokens of blocks, those in parts as their parts."""
        if self._parts.keys().isdisjoint(blocks):
            return Tokens.blocks(blocks, BLOCK, length)
        ids, ends = [], []
        for start, block in zip(range(0, length, BLOCK), blocks, strict=True):
            for end, name in self._parts.get(block, [(BLOCK, block)]):
                ids.append(name)
                ends.append(start + end)
        runs = int(np.searchsorted(ends, length)) + 1
        return Tokens(np.array(ids[:runs]), np.minimum(ends[:runs], length))


def _prefixes(request: Hashed) -> Iterator[int]:
    """A hash of the prompt up to the end of each full block."""
    prefix = 0
    for block in request.hashes[: request.full_blocks]:
        prefix = hash((prefix, block))
        yield prefix


def _unnamed(number: int, length: int) -> Tokens:
    """One run of `length` tokens, or nothing."""
    return Tokens.blocks([number], length, length) if length else Tokens.plain(())
