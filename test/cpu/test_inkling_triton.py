"""Inkling's gate and activation against SGLang's kernels, under Triton's interpreter."""

from types import SimpleNamespace

import pytest
import torch
from sglang.kernels.ops.elementwise import row_scale
from sglang.kernels.ops.moe import gate_topk as gate
from sglang.kernels.ops.moe import inkling_moe
from sglang_marconi.cpu import inkling


@pytest.mark.parametrize("k", [1, 3, 8])
def test_largest_of_each_row(k: int) -> None:
    torch.manual_seed(k)
    # Few values, so that there are equals among them.
    scores = torch.randint(-9, 9, (5, 40)).float()
    wanted = gate.gate_topk(scores, k)
    values, columns = inkling.gate_topk(scores, k)
    assert columns.dtype == wanted[1].dtype
    assert torch.equal(values, wanted[0]) and torch.equal(columns, wanted[1])
    assert torch.equal(inkling.gate_topk(scores, k, return_values=False), wanted[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [True, False])
def test_activation(dtype: torch.dtype, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    device = SimpleNamespace(multi_processor_count=1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: device)
    torch.manual_seed(1)
    rows = (4 * torch.randn(7, 24)).to(dtype)
    weights = torch.randn(7) if weighted else None
    for interleaved in (True, False):
        wanted = inkling_moe.silu_and_mul(rows, weights, torch.float32, interleaved)
        ours = inkling.silu_and_mul(rows, weights, torch.float32, interleaved)
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)
    wanted = inkling_moe.silu_and_mul_triton(rows, weights)
    ours = inkling.silu_and_mul_triton(rows, weights)
    assert ours.dtype == dtype
    # The interpreter cuts off what a GPU rounds to half precision.
    close = 1e-5 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(ours, wanted, rtol=close, atol=close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scale_of_long_contexts(dtype: torch.dtype) -> None:
    x = torch.randn(5, 3, 8).to(dtype)[:, 1:]
    tau = (1 + torch.rand(5)).view(-1, 1, 1)
    wanted = row_scale.apply_log_scaling_tau(x, tau)
    ours = inkling.apply_log_scaling_tau(x, tau)
    assert ours.dtype == dtype
    close = 1e-6 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(ours, wanted, rtol=close, atol=0)
