"""The cost of a model, reduced to a few coefficients."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sglang_marconi.cost.encoding import RecurrentPart

_NONE = RecurrentPart()

FLOPS_PER_BYTE = 295
"""What an H100 SXM computes in bf16 while it reads a byte: 989.4 TFLOP/s over 3.35 TB/s (its data
sheet). An A100 has 156."""

WEIGHT_BYTES = 2
"""Of a weight: 16 bits. Quantised ones are read in less time, and computed with in less, too."""


@dataclass(frozen=True, slots=True)
class WindowCost:
    """All layers that attend to the same number of most recent keys, on one rank.

    ``flops_per_key`` for each (token, key) pair; ``kv_bytes_per_token`` for each of the
    last ``window`` tokens.
    """

    window: int
    flops_per_key: float
    kv_bytes_per_token: int = 0

    def pairs(self, tokens: int) -> int:
        """(token, key) pairs in a prefill of the first ``tokens`` tokens."""
        if tokens <= self.window:
            return tokens * (tokens + 1) // 2
        return tokens * self.window - self.window * (self.window - 1) // 2


@dataclass(frozen=True, slots=True)
class ModelCost:
    """FLOPs to prefill a prefix and bytes to keep it, on one tensor-parallel rank.

    The FLOPs of a prefix of n tokens are ``flops_per_token * n + flops_per_token_squared *
    n**2``, and for each of ``windows`` its ``flops_per_key`` times the pairs it attends
    to; what a FLOP is, `LayerCost` says. ``state_bytes`` is one checkpoint (recurrent
    states and convolution windows of all layers), whatever prefix it stands for;
    ``kv_bytes_per_token`` is the KV of the layers without a window. ``parameters`` (the
    matrices and convolutions of the whole model, embeddings included) and
    ``active_parameters`` (those one token is multiplied with) tell whether a config was
    read well: they should be close to what the model's name says. Both are 0 where there
    is no model, as in `token_length_cost`. ``recurrent``: the part of ``state_bytes`` that an
    encoding may round. ``pass_flops``: what a forward pass costs however few tokens it computes,
    see `pass_flops_of`; 0: nothing.
    """

    flops_per_token: float
    flops_per_token_squared: float
    state_bytes: int
    kv_bytes_per_token: int
    windows: tuple[WindowCost, ...] = ()
    parameters: float = 0.0
    active_parameters: float = 0.0
    recurrent: RecurrentPart = _NONE
    pass_flops: float = 0.0

    def encoded_state_bytes(self, encoding: str) -> int:
        """One checkpoint in one of `ENCODINGS`, none larger than it is exact.

        Convolution windows are kept as they are in each.
        """
        smaller = min(self.recurrent.encoded(encoding), self.recurrent.nbytes)
        return self.state_bytes - self.recurrent.nbytes + smaller

    def prefill_flops(self, start: int, end: int) -> float:
        """FLOPs to compute tokens ``[start, end)`` when ``[0, start)`` is cached.

        Additive: the cost of [0, a) plus that of [a, b) is that of [0, b). A hit on n
        tokens saves ``prefill_flops(0, n)``. Expects ``0 <= start <= end``.
        """
        flops = (end - start) * (
            self.flops_per_token + self.flops_per_token_squared * (start + end)
        )
        for window in self.windows:
            flops += window.flops_per_key * (window.pairs(end) - window.pairs(start))
        return flops

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of KV that the last ``tokens`` tokens of a sequence hold."""
        held = self.kv_bytes_per_token * tokens
        for window in self.windows:
            held += window.kv_bytes_per_token * min(tokens, window.window)
        return held

    def with_pool_bytes(self, *, state_bytes: int, kv_bytes_per_token: int) -> ModelCost:
        """The same FLOPs with bytes as a server's memory pools have them.

        ``kv_bytes_per_token`` is what the pool takes for a token over all layers, so it
        replaces the bounded part of sliding windows too.
        """
        windows = tuple(replace(window, kv_bytes_per_token=0) for window in self.windows)
        return replace(
            self, state_bytes=state_bytes, kv_bytes_per_token=kv_bytes_per_token, windows=windows
        )


def pass_flops_of(weights: float) -> float:
    """FLOPs that a device computes in the time in which a pass reads ``weights`` weights.

    The ridge of the roofline (Williams, Waterman and Patterson, CACM 52(4), 2009): a pass takes
    the longer of reading its weights and computing its tokens, so one of fewer FLOPs than these
    takes no less time. ``weights``: those that a token is multiplied with. A pass over many tokens
    reads every expert, which is not counted: how much a pass has to read then depends on what
    other requests are in it, and would be read without this one.
    """
    return FLOPS_PER_BYTE * WEIGHT_BYTES * weights


def token_length_cost(*, state_bytes: int, kv_bytes_per_token: int) -> ModelCost:
    """For a model that no formula covers: every token costs one unit, wherever it stands.

    So a weight costs half a unit a token.
    """
    return ModelCost(
        flops_per_token=1.0,
        flops_per_token_squared=0.0,
        state_bytes=state_bytes,
        kv_bytes_per_token=kv_bytes_per_token,
        pass_flops=pass_flops_of(0.5),
    )
