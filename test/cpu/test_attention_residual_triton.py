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
    # The kernels take multiples of 1024; one row is small enough for the epsilon to count.
    sizes = torch.tensor([1e-3, 1.0, 30.0])[:, None]
    stream = (torch.randn(3, 1024) * sizes).to(dtype)
    bank = (torch.randn(3, 4, 1024) * sizes[..., None]).to(dtype)
    proj: Any = SimpleNamespace(weight=torch.randn(1, 1024) / 8)
    norm: Any = SimpleNamespace(weight=1 + torch.randn(1024), variance_epsilon=1e-5)
    wanted = attn_residual._mix_fused(stream, bank, nvb, proj, norm)
    ours = mix_fused(stream, bank, nvb, proj, norm)
    assert ours.dtype == dtype
    # The interpreter cuts off what a GPU rounds to half precision.
    close = 1e-5 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(ours, wanted, rtol=close, atol=1e-6)


def test_no_tokens() -> None:
    proj: Any = SimpleNamespace(weight=torch.randn(1, 8))
    norm: Any = SimpleNamespace(weight=torch.randn(8), variance_epsilon=1e-5)
    assert mix_fused(torch.empty(0, 8), torch.empty(0, 4, 8), 2, proj, norm).shape == (0, 8)
