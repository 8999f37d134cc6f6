"""What SGLang is told of a machine without an accelerator."""

from __future__ import annotations

import pytest
import torch
from sglang.srt.configs.inkling import InklingStateDType
from sglang_marconi.cpu import environment


def test_conv_dtype_follows_the_model_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    class Config:
        dtype = torch.float32

    monkeypatch.setenv("SGLANG_MAMBA_CONV_DTYPE", "bfloat16")
    environment.set_conv_dtype(None, Config())
    assert environment.os.environ["SGLANG_MAMBA_CONV_DTYPE"] == "bfloat16"
    monkeypatch.delenv("SGLANG_MAMBA_CONV_DTYPE")
    environment.set_conv_dtype(None, Config())
    assert environment.os.environ["SGLANG_MAMBA_CONV_DTYPE"] == "float32"


def test_inkling_keeps_states_in_that_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_MAMBA_CONV_DTYPE", "float32")
    dtypes = InklingStateDType.__new__(InklingStateDType)
    environment.keep_inkling_in_conv_dtype(
        InklingStateDType.__init__, dtypes, conv=torch.bfloat16, temporal=torch.float16
    )
    assert (dtypes.conv, dtypes.temporal) == (torch.float32, torch.float16)


def test_a_product_in_another_type() -> None:
    left, right = torch.randn(3, 50).bfloat16(), torch.randn(50, 2).bfloat16()
    product = environment.multiply(torch.mm, left, right, out_dtype=torch.float32)
    assert product.dtype == torch.float32
    assert torch.equal(product, left.float() @ right.float())
    assert environment.multiply(torch.mm, left, right).dtype == torch.bfloat16


def test_torch_has_no_such_product_on_a_cpu() -> None:
    # Once it has one, ours can go.
    row = torch.ones(1, 1)
    with pytest.raises(NotImplementedError, match=r"aten::mm\.dtype"):
        torch.mm(row, row, out_dtype=torch.float32)


def test_the_module_of_a_device() -> None:
    assert environment.device_module(torch.get_device_module) is torch.cpu
    assert environment.device_module(torch.get_device_module, "cuda") is torch.cuda
