"""Gated norms and sigmoid gates against SGLang's kernels, under Triton's interpreter."""

from contextlib import nullcontext

import pytest
import torch
from sglang.kernels.ops.attention.fla import fused_norm_gate as fused
from sglang.kernels.ops.attention.fla import layernorm_gated as gated
from sglang.kernels.ops.elementwise import elementwise
from sglang_marconi.cpu.gates import fused_sigmoid_mul, launch_fused_gate_sigmoid_mul
from sglang_marconi.cpu.norms import layernorm_fn, rms_norm_gated
from torch import Tensor

# Triton's interpreter cuts off what a GPU rounds to half precision: one unit in the last place.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}
DTYPES = [torch.float32, torch.bfloat16]
# Rows of a thousand and of a thousandth: an epsilon in the wrong place shows in the latter.
ROWS = torch.tensor([1e3, 1.0, 1e-3, 0.0, 30.0])[:, None]


@pytest.fixture(autouse=True)
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for its multiprocessors, and made the current one."""
    monkeypatch.setattr(gated, "calc_rows_per_block", lambda rows, device: 4)
    monkeypatch.setattr(gated, "device_context", lambda device: nullcontext())


def assert_close(ours: Tensor, wanted: Tensor) -> None:
    assert ours.dtype == wanted.dtype
    tolerance = CLOSE[wanted.dtype]
    torch.testing.assert_close(ours, wanted, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group_size", [None, 8])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize("activation", ["swish", "sigmoid", None])
def test_norm_in_groups(
    dtype: torch.dtype, group_size: int | None, first: bool, rms: bool, activation: str | None
) -> None:
    torch.manual_seed(1)
    x = (torch.randn(5, 24) * ROWS).to(dtype)
    z = (4 * torch.randn(5, 24)).to(dtype)
    weight, bias = torch.randn(24), torch.randn(24)
    gate = {} if activation is None else {"z": z, "activation": activation}
    options = {"group_size": group_size, "norm_before_gate": first, "is_rms_norm": rms, **gate}
    for shift in (bias, None):
        wanted = gated.layernorm_fn(x, weight, shift, eps=1e-5, **options)
        assert_close(layernorm_fn(x, weight, shift, eps=1e-5, **options), wanted)


def test_norm_of_heads_with_a_gate_of_other_strides() -> None:
    x, weight = torch.randn(10, 8), torch.randn(8)
    z = torch.randn(5, 2, 16)[..., 8:]
    wanted = gated.layernorm_fn(x, weight, None, z, is_rms_norm=True)
    assert_close(layernorm_fn(x, weight, None, z, is_rms_norm=True), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["swish", "silu", "sigmoid"])
def test_gated_norm_of_heads(dtype: torch.dtype, activation: str) -> None:
    torch.manual_seed(2)
    x = (torch.randn(5, 3, 12) * ROWS[..., None]).to(dtype)
    g = torch.randn(5, 3, 12).to(dtype)
    for weight, bias in ((torch.randn(12), None), (torch.randn(12), torch.randn(12)), (None, None)):
        wanted = fused.rms_norm_gated(x.clone(), g, weight, bias, activation, eps=1e-5)
        assert_close(rms_norm_gated(x, g, weight, bias, activation, eps=1e-5), wanted)


def test_norms_refuse_what_no_model_asks_for() -> None:
    x = torch.ones(1, 4)
    with pytest.raises(NotImplementedError, match="residual"):
        rms_norm_gated(x, x, None, None, residual=x)
    with pytest.raises(NotImplementedError, match="gelu"):
        rms_norm_gated(x, x, None, None, "gelu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("heads", [None, 3])
def test_sigmoid_gate_of_attention(dtype: torch.dtype, inplace: bool, heads: int | None) -> None:
    torch.manual_seed(3)
    x = torch.randn(5, 24).to(dtype)
    gate = 4 * torch.randn(5, 24).to(dtype)
    if heads is not None:
        gate = 4 * torch.randn(5, heads, 16).to(dtype)[..., 8:]
    theirs, ours = x.clone(), x.clone()
    wanted = elementwise.fused_sigmoid_mul(theirs, gate, inplace)
    result = fused_sigmoid_mul(ours, gate, inplace)
    assert_close(result, wanted)
    assert (result.data_ptr() == ours.data_ptr()) is inplace
    assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("do_add", [True, False])
def test_gate_of_the_shared_expert(dtype: torch.dtype, do_add: bool) -> None:
    torch.manual_seed(4)
    x, shared, output = (torch.randn(5, 24).to(dtype) for _ in range(3))
    weight = torch.randn(24).to(dtype)
    wanted = output.clone()
    elementwise._launch_fused_gate_sigmoid_mul(x, weight, shared, wanted, do_add=do_add)
    launch_fused_gate_sigmoid_mul(x, weight, shared, output, do_add=do_add)
    assert_close(output, wanted)
