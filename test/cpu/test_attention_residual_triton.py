"""Kimi-K3's attention residual against SGLang's kernels, under Triton's interpreter."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers import attn_residual
from sglang_marconi.cpu.attention_residual import mix_fused


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("nvb", [1, 3])
def test_mixture(dtype: torch.dtype, nvb: int) -> None:
    torch.manual_seed(nvb)
    # The kernels take multiples of 1024. Projection and epsilon are such that each snapshot, the
    # norm and the epsilon count in every row.
    sizes = torch.tensor([0.1, 1.0, 3.0])[:, None]
    stream = (torch.randn(3, 1024) * sizes).to(dtype)
    bank = (torch.randn(3, 4, 1024) * sizes[..., None]).to(dtype)
    proj: Any = SimpleNamespace(weight=torch.randn(1, 1024) / 32)
    norm: Any = SimpleNamespace(weight=1 + torch.randn(1024), variance_epsilon=0.5)
    wanted = attn_residual._mix_fused(stream, bank, nvb, proj, norm)
    ours = mix_fused(stream, bank, nvb, proj, norm)
    assert ours.dtype == dtype
    # Sums of another order differ by what a row's largest values lose, also where its values cancel
    # out; and the interpreter cuts off what a GPU rounds to half precision.
    size = wanted.float().abs().amax(1, keepdim=True)
    close = 0.0 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(ours.float() / size, wanted.float() / size, rtol=close, atol=5e-6)


def test_no_tokens() -> None:
    proj: Any = SimpleNamespace(weight=torch.randn(1, 8))
    norm: Any = SimpleNamespace(weight=torch.randn(8), variance_epsilon=1e-5)
    assert mix_fused(torch.empty(0, 8), torch.empty(0, 4, 8), 2, proj, norm).shape == (0, 8)
