"""What chooses the keys that sparse attention attends to.

Each scores all earlier keys, or pools of ``pool`` of them, so its FLOPs grow with the square of
the length where those of the attention proper no longer do. A token is counted as if it scored
``(keys so far) / pool`` of them, where it scores only the pools that are full.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_marconi.cost.layer import KeyTerm, LayerCost, shard, shard_or_replicate

# SGLang stores the keys of a `LightningIndexer` in 8 bits, with a 32-bit scale for so many.
_SCALED_TOGETHER = 128
_SCALE_BYTES = 4
_BFLOAT16_BYTES = 2
# InfLLM-V2 pools keys a second time, four to one, to estimate the softmax's denominator.
_SECOND_POOL = 4


@dataclass(frozen=True, slots=True)
class LightningIndexer(LayerCost):
    """The indexer of DeepSeek sparse attention, arXiv 2512.02556, section 2.1; GLM-5-Next.

    ``heads`` queries from the latent of the attention's queries score one key, and the scores
    are summed with weights that are projected for each token: ``2 * heads * (head_dim + 1)``
    FLOPs for a key. With a ``pool``, keys are averaged with weights of which a second
    projection makes one for each channel. All of it is replicated on every rank. The averaging
    itself is not counted.
    """

    hidden: int
    q_rank: int
    heads: int
    head_dim: int
    pool: int = 1

    def weights(self, tp: int) -> float:
        queries = self.q_rank * self.heads * self.head_dim
        keys = self.hidden * self.head_dim * (2 if self.pool > 1 else 1)
        return float(queries + keys + self.hidden * self.heads)

    def keys(self, tp: int) -> KeyTerm:
        key_bytes = self.head_dim + self.head_dim // _SCALED_TOGETHER * _SCALE_BYTES
        flops = 2.0 * self.heads * (self.head_dim + 1) / self.pool
        return KeyTerm(flops, other_bytes=-(-key_bytes // self.pool))


@dataclass(frozen=True, slots=True)
class BlockIndexer(LayerCost):
    """The indexer of Qwen4-Exp's sparse attention.

    ``heads`` queries and one key are projected from the hidden state; the keys of a block of
    ``pool`` tokens are averaged, scored by every query, and the scores are added up. SGLang
    stores a block's key in bfloat16. All of it is replicated on every rank. Source:
    ``Qwen4ExpTextQSAIndexer`` in transformers.
    """

    hidden: int
    heads: int
    head_dim: int
    pool: int

    def weights(self, tp: int) -> float:
        return float(self.hidden * (self.heads + 1) * self.head_dim)

    def keys(self, tp: int) -> KeyTerm:
        flops = 2.0 * self.heads * self.head_dim / self.pool
        return KeyTerm(flops, other_bytes=_BFLOAT16_BYTES * self.head_dim // self.pool)


@dataclass(frozen=True, slots=True)
class PooledKeys(LayerCost):
    """What InfLLM-V2 chooses blocks by, arXiv 2509.24663, section 3; MiniCPM-SALA.

    No weights: the attention's own queries score means of its keys, one for every ``pool``
    tokens, and again one for every four times as many. SGLang gives each mean a slot of KV.
    """

    heads: int
    kv_heads: int
    head_dim: int
    pool: int

    def weights(self, tp: int) -> float:
        return 0.0

    def keys(self, tp: int) -> KeyTerm:
        query = shard(self.heads, tp, "attention heads") * self.head_dim
        kv = 2 * shard_or_replicate(self.kv_heads, tp, "key/value heads") * self.head_dim
        means = _SECOND_POOL + 1
        span = _SECOND_POOL * self.pool
        return KeyTerm(2.0 * query * means / span, kv * means // span)
