"""Residual connections of several streams, and what is added to the streams at a layer.

A block reads one stream mixed from all, and writes its output to all. Every rank has all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_marconi.cost.layer import LayerCost, StateTerm


@dataclass(frozen=True, slots=True)
class HyperConnection(LayerCost):
    """Manifold-constrained hyper-connection (mHC), arXiv 2512.24880, section 4; GLM-5-Next.

    From all streams at once, a matrix makes what a token's streams are read with (one number
    for each), written with (as many) and mixed with (a square matrix). Reading, writing and
    mixing involve no weights: ``2 * hidden * streams * (streams + 2)`` FLOPs. One for each
    attention and one for each feed-forward layer.
    """

    hidden: int
    streams: int

    def weights(self, tp: int) -> float:
        return float(self.streams * (self.streams + 2) * self.streams * self.hidden)

    def scan_flops(self, tp: int) -> float:
        return 2.0 * self.hidden * self.streams * (self.streams + 2)


@dataclass(frozen=True, slots=True)
class GatedResidual(LayerCost):
    """Hyper-connection of Qwen4-Exp: ``Qwen4ExpTextGatedResidual`` in transformers.

    Each channel of each stream is read with a gate of its own, which a projection through
    ``rank`` channels makes of all streams; reading is elementwise. Where it ``writes``, another
    matrix makes the number that the output is written to a stream with.
    """

    hidden: int
    streams: int
    rank: int
    writes: bool = True

    def weights(self, tp: int) -> float:
        wide = self.streams * self.hidden
        return float(wide * (2 * self.rank + (self.streams if self.writes else 0)))


@dataclass(frozen=True, slots=True)
class NGramEmbedding(LayerCost):
    """Per-layer embedding (PLE) of Qwen4-Exp: ``Qwen4ExpTextPLELayer`` in transformers.

    The last 2 to ``ngram`` tokens are looked up in ``table`` rows, one for each of several
    hashes, of ``embedding`` elements together. Keys for every stream and one value are projected
    from them, a query is the stream itself, and a convolution with dilation ``ngram`` runs over
    all channels. Its window lies beside the recurrent states: SGLang's ``ShortConvPool``.
    """

    hidden: int
    streams: int
    embedding: int
    conv_kernel: int
    ngram: int
    table: int = 0

    def weights(self, tp: int) -> float:
        wide = self.streams * self.hidden
        return float(self.embedding * (wide + self.hidden) + wide * self.conv_kernel)

    def total_weights(self) -> float:
        return self.weights(1) + self.table

    def scan_flops(self, tp: int) -> float:
        return 2.0 * self.streams * self.hidden

    def state(self, tp: int) -> StateTerm:
        window = (self.conv_kernel - 1) * self.ngram
        return StateTerm(conv=self.streams * self.hidden * window)


@dataclass(frozen=True, slots=True)
class NGramContext(LayerCost):
    """The last tokens, which all `NGramEmbedding` of a model share: SGLang's ``NGramPool``."""

    ngram: int

    def weights(self, tp: int) -> float:
        return 0.0

    def state(self, tp: int) -> StateTerm:
        return StateTerm(token_ids=self.ngram - 1)
