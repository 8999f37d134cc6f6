"""Attention over stored keys: full, grouped-query, sliding-window, and latent (MLA)."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_marconi.cost.layer import KeyTerm, LayerCost, shard, shard_or_replicate


@dataclass(frozen=True, slots=True)
class Attention(LayerCost):
    """Softmax attention with ``kv_heads <= heads`` key/value heads (GQA; equal: MHA).

    Causal: the token at position t (from 0) attends to t + 1 keys, each costing 2
    multiply-adds per head and channel (score and value), that is ``4 * heads *
    head_dim`` FLOPs per key. With a ``window`` it attends to at most that many, itself
    included. With ``selected`` it attends to at most that many, chosen among all (what
    chooses them is a layer of its own, ``cost.sparse``). ``gated``: a second projection of
    the queries' size gates the output. Grouped-query attention: arXiv 2305.13245.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None
    gated: bool = False
    selected: int | None = None

    def weights(self, tp: int) -> float:
        query = shard(self.heads, tp, "attention heads") * self.head_dim
        kv = self._kv_heads(tp) * self.head_dim
        return float(self.hidden * (query * (3 if self.gated else 2) + 2 * kv))

    def keys(self, tp: int) -> KeyTerm:
        query = shard(self.heads, tp, "attention heads") * self.head_dim
        stored = 2 * self._kv_heads(tp) * self.head_dim
        if self.selected is not None:
            return KeyTerm(4.0 * query, stored, self.selected, keeps_all=True)
        return KeyTerm(4.0 * query, stored, self.window)

    def _kv_heads(self, tp: int) -> int:
        return shard_or_replicate(self.kv_heads, tp, "key/value heads")


@dataclass(frozen=True, slots=True)
class LatentAttention(LayerCost):
    """Multi-head latent attention (MLA; DeepSeek-V2, arXiv 2405.04434, section 2.1).

    Counted in the form that is *not* absorbed, in which prefill runs: every token's keys
    and values are expanded from its latent once, and a (token, key) pair costs
    ``2 * heads * (nope + rope + v)`` FLOPs. Expanding a cached prefix again when a
    prefill resumes is left out. Stored per token is the latent and the shared rotary key,
    ``kv_rank + rope_dim`` elements, replicated on every rank, as are the
    down-projections. ``q_rank`` is ``None`` where queries have no latent of their own;
    ``gate_dim`` is the width of an output gate (0: none).

    With ``selected``, a token attends to at most that many keys, chosen among all (DeepSeek-
    V3.2, arXiv 2512.02556, section 2.1). Queries that attend to keys of their own cannot share
    an expansion, so they attend to the latents themselves (absorbed): the weights are the
    same, and a pair costs ``2 * heads * (2 * kv_rank + rope)`` FLOPs.
    """

    hidden: int
    heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    gate_dim: int = 0
    selected: int | None = None

    def weights(self, tp: int) -> float:
        heads = shard(self.heads, tp, "attention heads")
        query = heads * (self.nope_dim + self.rope_dim)
        if self.q_rank is None:
            queries = self.hidden * query
        else:
            queries = self.q_rank * (self.hidden + query)
        latent = self.hidden * (self.kv_rank + self.rope_dim)
        expand = self.kv_rank * heads * (self.nope_dim + self.v_dim)
        output = self.hidden * heads * self.v_dim
        return queries + latent + expand + output + self.hidden * self.gate_dim / tp

    def keys(self, tp: int) -> KeyTerm:
        heads = shard(self.heads, tp, "attention heads")
        stored = self.kv_rank + self.rope_dim
        if self.selected is not None:
            return KeyTerm(2.0 * heads * (stored + self.kv_rank), stored, self.selected, True)
        return KeyTerm(2.0 * heads * (self.nope_dim + self.rope_dim + self.v_dim), stored)
