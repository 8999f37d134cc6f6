"""The contract every kind of layer fulfils, and how its dimensions are split over ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from sglang_marconi.cost.encoding import scales
from sglang_marconi.cost.errors import ShardingError


class KeyTerm(NamedTuple):
    """What a layer does for each key a token attends to, and stores for each token.

    ``flops`` per (token, key) pair; ``kv_elements`` stored per token; ``window`` is the
    number of most recent keys a token attends to, itself included, and so the number of
    tokens whose keys are stored (``None``: all of them). With ``keeps_all`` the keys may be
    any of the earlier ones, as many as ``window`` says, and all are stored. ``other_bytes``
    are stored per token whatever the type of the KV is.
    """

    flops: float = 0.0
    kv_elements: int = 0
    window: int | None = None
    keeps_all: bool = False
    other_bytes: int = 0


class StateTerm(NamedTuple):
    """Elements of one checkpoint: the recurrent state and the convolution window.

    The recurrent state is ``heads`` matrices of ``rows`` x ``columns``, as it lies in memory.
    ``token_ids`` are the last tokens themselves, where a layer needs them.
    """

    heads: int = 0
    rows: int = 0
    columns: int = 0
    conv: int = 0
    token_ids: int = 0

    @property
    def recurrent(self) -> int:
        return self.heads * self.rows * self.columns

    @property
    def scales(self) -> int:
        """Scales that the state has where an element is stored in one byte (``cost.encoding``)."""
        return scales(self.heads, self.rows, self.columns)


class LayerCost(ABC):
    """FLOPs and stored elements of one layer, on one of ``tp`` tensor-parallel ranks.

    Counted: a multiply-add is 2 FLOPs, in matrix products (projections, attention
    scores and values), in convolutions, and in the recurrence of a scan (state update
    and read-out), which is counted token by token, as in decoding: a chunked kernel does
    more arithmetic for the same result, by an amount that depends on its chunk size.
    Not counted: anything elementwise (activations, norms, gates, decays, softmax, rotary
    embeddings, biases), embeddings, and the output head, which a prefill computes for
    the last token only.

    The cost of a token is ``2 * weights + scan_flops + keys.flops * (keys attended)``:
    the first two terms do not depend on where the token stands in the sequence.
    """

    __slots__ = ()

    @abstractmethod
    def weights(self, tp: int) -> float:
        """Weights that each token is multiplied with on one rank.

        An average over ranks where the split is by experts; weights replicated on every
        rank count in full on each.
        """

    def total_weights(self) -> float:
        """All weights of the layer: differs from ``weights(1)`` where experts are chosen."""
        return self.weights(1)

    def scan_flops(self, tp: int) -> float:
        """FLOPs per token that involve no weights: the recurrence, on one rank."""
        return 0.0

    def keys(self, tp: int) -> KeyTerm:
        """The part that grows with the number of keys attended to, on one rank."""
        return KeyTerm()

    def state(self, tp: int) -> StateTerm:
        """What one checkpoint of this layer holds, on one rank."""
        return StateTerm()


def shard(count: int, tp: int, what: str) -> int:
    """``count`` heads or channels on each of ``tp`` ranks.

    Raises:
        ShardingError: they do not divide evenly.
    """
    if count % tp:
        raise ShardingError(f"{count} {what} cannot be split over {tp} tensor-parallel ranks")
    return count // tp


def shard_or_replicate(count: int, tp: int, what: str) -> int:
    """Like `shard`, but with fewer heads than ranks every rank holds one (a copy)."""
    if count < tp and tp % count == 0:
        return 1
    return shard(count, tp, what)
