"""What rounding does to a state, against bounds worked out in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernel_states import Pages, encodings_of
from marconi_kernels import Encoding, StateLayout, StatePart, load, store
from marconi_kernels.encoding import SMALLEST_SCALE
from marconi_kernels.grouping import Grouping
from torch import Tensor

HEADS, ROWS, COLUMNS = 6, 130, 48
SHAPE = (HEADS, ROWS, COLUMNS)


def normal(generator: torch.Generator) -> Tensor:
    return torch.randn(2, 1, *SHAPE, generator=generator)


def heavy_tailed(generator: torch.Generator) -> Tensor:
    """Student's t with two degrees of freedom: no variance."""
    chi = -2 * torch.rand(2, 1, *SHAPE, generator=generator).clamp_min(1e-6).log()
    return torch.randn(2, 1, *SHAPE, generator=generator) / (chi / 2).sqrt()


def uneven(generator: torch.Generator) -> Tensor:
    """Heads and columns of very different size, from denormal to large; one head all zeros."""
    values = torch.randn(2, 1, *SHAPE, generator=generator)
    exponents = torch.empty(2, 1, HEADS, 1, COLUMNS).uniform_(-140, 100, generator=generator)
    values = (values.double() * torch.exp2(exponents.double())).float()
    values[:, :, 2] = 0
    return values


KINDS = [normal, heavy_tailed, uneven]


def through_pages(
    values: Tensor, encoding: Encoding, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """`values`, `[layers, 1, *shape]`, stored and loaded again."""
    part = StatePart(tuple(values.shape[2:]), dtype, True)
    layout = StateLayout(values.shape[0], [part])
    pages = Pages.of(layout, 1, device)
    active = values.to(device, dtype)
    restored = torch.full_like(active, 7)
    slot = torch.zeros(1, dtype=torch.int64, device=device)
    store([active], slot, *pages, encoding, layout)
    load([restored], slot, *pages, encodings_of([encoding], device), layout)
    return restored.cpu()


def largest_of_group(values: Tensor) -> Tensor:
    """For each element, the largest magnitude among those that share its scale, in float64."""
    grouping = Grouping.of(SHAPE)
    largest = torch.empty(values.shape, dtype=torch.float64)
    for start in range(0, grouping.rows, grouping.group_rows):
        group = values[..., start : start + grouping.group_rows, :].double()
        largest[..., start : start + grouping.group_rows, :] = group.abs().amax(-2, keepdim=True)
    return largest


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_int8_is_within_half_a_step(
    kind: Callable[[torch.Generator], Tensor], seed: int, device: torch.device
) -> None:
    values = kind(torch.Generator().manual_seed(seed))
    error = (through_pages(values, Encoding.INT8, device).double() - values.double()).abs()
    step = (largest_of_group(values) / 127).clamp_min(SMALLEST_SCALE)
    assert (error <= 0.5001 * step).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_fp8_is_within_half_a_unit_in_the_last_place(
    kind: Callable[[torch.Generator], Tensor], seed: int, device: torch.device
) -> None:
    values = kind(torch.Generator().manual_seed(seed))
    error = (through_pages(values, Encoding.FP8, device).double() - values.double()).abs()
    scale = (largest_of_group(values) / 448).clamp_min(SMALLEST_SCALE)
    # Three bits of mantissa, and a smallest step of 2**-9.
    unit = torch.maximum(values.double().abs() * 2**-3, scale * 2**-9)
    assert (error <= 0.5001 * unit).all()


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_rounds_to_nearest(
    kind: Callable[[torch.Generator], Tensor], device: torch.device
) -> None:
    values = kind(torch.Generator().manual_seed(5))
    restored = through_pages(values, Encoding.BF16, device)
    assert torch.equal(restored, values.bfloat16().float())


@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.FP8])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_states_of_two_bytes_an_element(
    dtype: torch.dtype, encoding: Encoding, device: torch.device
) -> None:
    values = normal(torch.Generator().manual_seed(6)).to(dtype)
    restored = through_pages(values, encoding, device, dtype)
    exact = through_pages(values.float(), encoding, device)
    assert torch.equal(restored, exact.to(dtype))


@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.FP8])
def test_extremes_come_back(encoding: Encoding, device: torch.device) -> None:
    values = torch.zeros(1, 1, 2, 64, 16)
    top = torch.finfo(torch.float32).max
    values[0, 0, 0, 3], values[0, 0, 0, 4] = top, -top
    restored = through_pages(values, encoding, device)
    torch.testing.assert_close(restored, values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.FP8])
def test_a_group_that_is_not_finite_comes_back_as_nan(
    encoding: Encoding, bad: float, device: torch.device
) -> None:
    values = torch.ones(1, 1, 3, 64, 16)
    values[0, 0, 1, 9, 5] = bad
    restored = through_pages(values, encoding, device)
    spoilt = torch.zeros_like(values, dtype=torch.bool)
    spoilt[0, 0, 1, :, 5] = True
    assert restored[spoilt].isnan().all()
    assert torch.equal(restored[~spoilt], values[~spoilt])


def test_bf16_keeps_what_is_not_finite(device: torch.device) -> None:
    values = torch.ones(1, 1, 64, 16)
    values[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    restored = through_pages(values, Encoding.BF16, device)
    assert torch.equal(restored.nan_to_num(7, 8, 9), values.nan_to_num(7, 8, 9))
