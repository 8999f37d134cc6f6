"""The cost model of the Marconi paper, kept apart from ours so that its results reproduce."""

from __future__ import annotations

from sglang_marconi.cost.encoding import RecurrentPart, scales
from sglang_marconi.cost.model import ModelCost

_FP16_BYTES = 2
_CONV_KERNEL = 4


def paper_weights(*, attention_layers: int, mamba_layers: int, mlp_layers: int, hidden: int) -> int:
    """Weights of the matrices in the same appendix, each of which is 2 FLOPs a token."""
    return (4 * attention_layers + 8 * mlp_layers + 6 * mamba_layers) * hidden**2


def paper_cost(
    *, attention_layers: int, mamba_layers: int, mlp_layers: int, hidden: int, state_dim: int
) -> ModelCost:
    """A hybrid model as the paper accounts it: Marconi, arXiv 2411.19379, appendix A.

    FLOPs of L tokens with D = ``hidden`` and N = ``state_dim``, all as in the appendix and
    in the authors' simulator (github.com/ruipeterpan/marconi):

    - attention ``8 L D^2 + 4 L^2 D``: every token attends to all L keys, masked or not,
      where `LayerCost` counts the causal half;
    - MLP ``16 L D^2``: two matrices, inner width 4 D;
    - Mamba ``12 L D^2 + 16 L D N + 10 L D``: expansion factor 2; elementwise work counts.

    Bytes, all 16-bit: a token's KV is ``4 D`` per attention layer; a checkpoint is per
    Mamba layer ``2 D N`` of state and a convolution window of 4 positions over ``2 D + 2
    N`` channels. A pass costs nothing there, so that every branch point is worth its room.
    """
    per_token = (
        attention_layers * 8 * hidden**2
        + mlp_layers * 16 * hidden**2
        + mamba_layers * (12 * hidden**2 + 16 * hidden * state_dim + 10 * hidden)
    )
    recurrent = hidden * state_dim
    conv = (2 * hidden + 2 * state_dim) * _CONV_KERNEL
    return ModelCost(
        flops_per_token=float(per_token),
        flops_per_token_squared=float(attention_layers * 4 * hidden),
        state_bytes=mamba_layers * (recurrent + conv) * _FP16_BYTES,
        kv_bytes_per_token=attention_layers * 2 * hidden * _FP16_BYTES,
        recurrent=RecurrentPart(
            mamba_layers * recurrent, _FP16_BYTES, mamba_layers * scales(1, hidden, state_dim)
        ),
    )
