"""The paper's "vLLM+": a state and KV for every block of tokens, evicted by LRU."""

from __future__ import annotations

from collections import OrderedDict

from sglang_marconi.cost import ModelCost
from sglang_marconi.simulate.cache import SimulatedCache
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens

BLOCK_TOKENS = 32


class BlockCache(SimulatedCache):
    """Keeps whole blocks of ``BLOCK_TOKENS``, each with its KV and the state at its end.

    A block is found by all the tokens up to its end. What was used last stays longest; of
    one request's blocks, those nearer to the start do, as the others are of no use without
    them.
    """

    def __init__(self, cost: ModelCost, total_bytes: int) -> None:
        self._cost = cost
        self._total = total_bytes
        # Blocks by their prefix: parent block and content -> number; in order of use.
        self._blocks: OrderedDict[tuple[int, bytes], int] = OrderedDict()
        self._numbered = 0
        self._block_bytes = cost.state_bytes + cost.kv_bytes(BLOCK_TOKENS)

    def serve(self, request: TraceRequest) -> int:
        sequence = request.prompt + request.reply
        end = len(request.prompt) + max(len(request.reply) - 1, 0)
        contents = _blocks(sequence, end)
        # The prompt's last token has to be computed.
        matchable = (len(request.prompt) - 1) // BLOCK_TOKENS
        parent, matched = 0, 0
        path: list[tuple[int, bytes]] = []
        for content in contents[:matchable]:
            number = self._blocks.get((parent, content))
            if number is None:
                break
            path.append((parent, content))
            parent = number
            matched += 1
        fitting = self._total // self._block_bytes
        for content in contents[matched:fitting]:
            key = (parent, content)
            if key not in self._blocks:
                self._numbered += 1
                self._blocks[key] = self._numbered
            path.append(key)
            parent = self._blocks[key]
        for key in reversed(path):
            self._blocks.move_to_end(key)
        while len(self._blocks) > fitting:
            self._blocks.popitem(last=False)
            self.evictions += 1
        self.state_bytes_held = len(self._blocks) * self._cost.state_bytes
        self.kv_bytes_held = len(self._blocks) * self._block_bytes - self.state_bytes_held
        self._note_peak()
        return matched * BLOCK_TOKENS


def _blocks(sequence: Tokens, end: int) -> list[bytes]:
    """What tells each whole block from others at its place: its runs, and where they end."""
    starts = range(0, end - BLOCK_TOKENS + 1, BLOCK_TOKENS)
    first = sequence.ends.searchsorted(starts, side="right")
    last = sequence.ends.searchsorted([at + BLOCK_TOKENS for at in starts], side="left")
    contents = []
    for start, low, high in zip(starts, first, last, strict=True):
        cuts = sequence.ends[low:high] - start
        contents.append(sequence.ids[low : high + 1].tobytes() + cuts.tobytes())
    return contents
