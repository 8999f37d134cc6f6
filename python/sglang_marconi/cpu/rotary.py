"""Rotary embeddings of positions in three dimensions, in place of SGLang's Triton kernel."""

from collections.abc import Sequence

import torch
from torch import Tensor


def triton_ernie45_rope_fused_inplace(
    q: Tensor,
    k: Tensor,
    cos_sin_cache: Tensor,
    positions: Tensor,
    mrope_section: Sequence[int],
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
) -> None:
    """Rotate queries and keys, each pair of channels by the position on one of three axes.

    Args:
        q, k: ``(tokens, heads * head_size)``, overwritten; any number of heads each.
        cos_sin_cache: ``(positions, rotary_dim)``: cosines, then sines, one a pair.
        positions: ``(3, tokens)``: time, height, width.
        mrope_section: how many pairs go by height, by width and by time. Those by height and
            width come first, in turns.
        rotary_dim: how many channels of a head are rotated, from its first on.
        is_neox_style: whether a pair is a channel of the first half of these and one of the
            second, else it is two neighbours.
    """
    height, width, _ = mrope_section
    pairs = rotary_dim // 2
    axis = torch.zeros(pairs, dtype=torch.int64, device=q.device)
    axis[: height + width : 2], axis[1 : height + width : 2] = 1, 2
    rows, columns = positions[axis].T, torch.arange(pairs, device=q.device)
    cos = cos_sin_cache[rows, columns][:, None]
    sin = cos_sin_cache[rows, columns + pairs][:, None]
    for heads in (x.view(len(x), -1, head_size)[..., :rotary_dim] for x in (q, k)):
        if is_neox_style:
            first, second = heads.chunk(2, dim=-1)
        else:
            first, second = heads[..., ::2], heads[..., 1::2]
        turned = first * cos - second * sin, second * cos + first * sin
        first.copy_(turned[0])
        second.copy_(turned[1])
