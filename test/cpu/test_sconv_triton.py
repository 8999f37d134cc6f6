"""Inkling's short convolutions against SGLang's kernels, under Triton's interpreter."""

from typing import Any

import pytest
import torch
from sglang.kernels.ops.mamba import mamba_state_indices_triton as indices
from sglang.srt.models.inkling_common import sconv as layers
from sglang.srt.models.inkling_common.kernels import sconv as theirs
from sglang_marconi.cpu import sconv as ours
from torch import Tensor
from torch.nn import functional as F
from triton.runtime.autotuner import Autotuner

DIM, SLOTS = 20, 9
# Triton's interpreter cuts off what a GPU rounds to half precision: one unit in the last place.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def one_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tuned where there is no device to time."""
    monkeypatch.setattr(Autotuner, "prune_configs", lambda tuner, _given: tuner.configs[-1:])


def assert_close(result: Tensor, wanted: Tensor) -> None:
    assert result.dtype == wanted.dtype
    tolerance = CLOSE[wanted.dtype]
    torch.testing.assert_close(result, wanted, rtol=tolerance, atol=tolerance)


def made(tokens: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(tokens + width)
    x = torch.randn(tokens, DIM).to(dtype)
    return x, torch.randn(DIM, width).to(dtype), torch.randn(SLOTS, width - 1, DIM).to(dtype)


LENGTHS = [1, 2, 0, 17, 3, 5]
STARTS = F.pad(torch.tensor(LENGTHS).cumsum(0), (1, 0))
INDICES = torch.tensor([3, 0, 5, 8, -1, 2], dtype=torch.int32)
RESUMED = torch.tensor([True, False, False, True, True, True])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("residual", [True, False])
def test_prefill(dtype: torch.dtype, width: int, activation: str | None, residual: bool) -> None:
    x, weight, pool = made(int(STARTS[-1]), width, dtype)
    before = pool.clone()
    given = theirs.precompute_helion_extend_metadata(
        B=len(LENGTHS), T=len(x), W=width, cache_indices=INDICES, has_initial_state=RESUMED,
        query_start_loc=STARTS.int(),
    )  # fmt: skip
    for is_decode in (False, True):
        options: Any = {
            "activation": activation, "use_residual": residual, "is_decode": is_decode,
        }  # fmt: skip
        wanted = theirs.causal_conv1d(x, weight, pool, **given, **options)
        assert_close(ours.causal_conv1d(x, weight, pool, **given, **options), wanted)
    assert torch.equal(pool, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [2, 4])
def test_states_of_a_prefill(dtype: torch.dtype, width: int) -> None:
    x, _, pool = made(int(STARTS[-1]), width, dtype)
    wanted = pool.clone()
    theirs.update_sconv_cache(x, wanted, INDICES, RESUMED, STARTS.int())
    ours.update_sconv_cache(x, pool, INDICES, RESUMED, STARTS.int())
    assert torch.equal(pool, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("tracked", [True, False])
def test_decode_step(dtype: torch.dtype, width: int, tracked: bool) -> None:
    x, weight, pool = made(len(INDICES), width, dtype)
    mask = (INDICES != -1) & RESUMED
    track: Any = {}
    if tracked:
        track["track_mask"] = torch.tensor([True, False, True, False, True, True])
        track["track_indices"] = torch.tensor([1, 4, 6, 7, 7, 7])
    for activation in (None, "silu"):
        for residual in (True, False):
            wanted_pool, result_pool = pool.clone(), pool.clone()
            wanted = theirs.fused_causal_conv1d_update_decode(
                x, weight, wanted_pool, INDICES, mask, activation, residual, **track
            )
            result = ours.fused_causal_conv1d_update_decode(
                x, weight, result_pool, INDICES, mask, activation, residual, **track
            )
            assert_close(result, wanted)
            assert torch.equal(result_pool, wanted_pool)


def test_tracked_states_of_a_prefill() -> None:
    x, _, pool = made(30, 4, torch.float32)
    tokens = torch.tensor([[5, 6, 7], [20, 21, 22], [0, 0, 1]])
    mask, slots = torch.tensor([True, False, True]), torch.tensor([2, 3, 8])
    wanted = pool.clone()
    layers.fused_gather_scatter_to_sconv_cache(x, wanted, tokens, mask, slots)
    ours.fused_gather_scatter_to_sconv_cache(x, pool, tokens, mask, slots)
    assert torch.equal(pool, wanted)


def test_what_a_decode_step_needs_to_know() -> None:
    wanted = theirs.fused_decode_sconv_metadata(len(INDICES), INDICES)
    result = ours.fused_decode_sconv_metadata(len(INDICES), INDICES)
    assert result[2].keys() == wanted[2].keys()
    tensors = zip(
        [*result[:2], *result[2].values()], [*wanted[:2], *wanted[2].values()], strict=True
    )
    for a, b in tensors:
        assert a.dtype == b.dtype and torch.equal(a, b)
    with pytest.raises(NotImplementedError, match="graph"):
        ours.fused_decode_sconv_metadata(len(INDICES), INDICES, out={})


@pytest.mark.parametrize("virtual", [True, False])
def test_slots_of_a_batch(virtual: bool) -> None:
    def run(function: Any) -> list[Tensor]:
        requests = torch.tensor([3, 0, 2, 1, 3])
        out = torch.full((7,), 77, dtype=torch.int32)
        mapping = torch.tensor([4, 0, 3, 1], dtype=torch.int32)
        v2p = torch.tensor([10, 11, 12, 13, 14]) if virtual else None
        result = function(
            req_pool_indices=requests, mamba_index_mapping=mapping, out_state_indices=out,
            valid_bs=3, total_bs=5, v2p=v2p,
        )  # fmt: skip
        return [requests, out, result]

    wanted = run(indices.fused_replay_state_indices)
    for a, b in zip(run(ours.fused_replay_state_indices), wanted, strict=True):
        assert torch.equal(a, b)
