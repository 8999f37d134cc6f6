"""Rotary embeddings in three dimensions against SGLang's kernel, under Triton's interpreter."""

import pytest
import torch
from sglang.kernels.ops.attention import rotary_triton
from sglang_marconi.cpu.rotary import triton_ernie45_rope_fused_inplace

CLOSE = {torch.float32: 1e-6, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("dtype", list(CLOSE))
@pytest.mark.parametrize("section", [[2, 2, 3], [1, 1, 2]])
@pytest.mark.parametrize("is_neox_style", [True, False])
def test_rotation_by_three_positions(
    dtype: torch.dtype, section: list[int], is_neox_style: bool
) -> None:
    torch.manual_seed(1)
    tokens, head_size, rotary_dim = 5, 16, 2 * sum(section)
    # Rows that lie apart in memory, and more heads for queries than for keys.
    both = torch.randn(tokens, 4 * head_size).to(dtype)
    angles = torch.arange(40)[:, None] * torch.rand(rotary_dim // 2)
    cache = torch.cat([angles.cos(), angles.sin()], dim=-1)
    positions = torch.randint(40, (3, tokens))
    wanted, ours = both.clone(), both.clone()
    rest = cache, positions, section, head_size, rotary_dim, is_neox_style
    heads = 3 * head_size, head_size
    rotary_triton.triton_ernie45_rope_fused_inplace(*wanted.split(heads, dim=1), *rest)
    triton_ernie45_rope_fused_inplace(*ours.split(heads, dim=1), *rest)
    torch.testing.assert_close(ours, wanted, rtol=CLOSE[dtype], atol=CLOSE[dtype])
