"""The delta rule, with a decay per head and per key channel, against transformers' recurrences."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_marconi.cpu import delta_rule
from sglang_marconi.cpu.gdn import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule_update
from sglang_marconi.cpu.kda import chunk_kda
from support.delta_reference import DeltaInput, largest_error, scan_one
from torch import Tensor
from torch.nn import functional as F

# Both sum the same float32 products, in different orders.
CLOSE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def bounds_of(lengths: Sequence[int]) -> Tensor:
    return F.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0), (1, 0)).int()


def pool_for(inputs: DeltaInput, slots: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    sizes = (*inputs.v.shape[2:], inputs.k.shape[3])
    return torch.randn(slots, *sizes, generator=generator)


def scan(
    inputs: DeltaInput, lengths: Sequence[int], pool: Tensor, slots: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Output ``(tokens, ...)`` and the states before each chunk; the pool has the last ones."""
    given: dict[str, Any] = {
        "initial_state": pool,
        "initial_state_indices": torch.tensor(slots or range(len(lengths)), dtype=torch.int32),
        "cu_seqlens": bounds_of(lengths),
        "use_qk_l2norm_in_kernel": True,
    }
    if inputs.g.dim() == 3:
        output, nothing, states = chunk_gated_delta_rule(**vars(inputs), **given)
        assert nothing is None
    else:
        output, states = chunk_kda(**vars(inputs), **given, output_intermediate_states=True)
    return output[0], states[0]


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [(2, 4, 8, 6), (3, 3, 5, 7), (1, 4, 16, 16)])
def test_packed_sequences_are_the_reference(
    channels: bool, dtype: torch.dtype, sizes: tuple[int, int, int, int]
) -> None:
    lengths = [1, 130, 64, 0, 5, 63, 65, 1, 0]
    inputs = DeltaInput.random(sum(lengths), channels, *sizes, dtype=dtype)
    pool = pool_for(inputs, len(lengths))
    before = pool.clone()
    output, states = scan(inputs, lengths, pool)
    assert output.dtype == states.dtype == dtype
    chunks = iter(states)
    for i, (begin, end) in enumerate(pairwise(bounds_of(lengths).tolist())):
        wanted, last = scan_one(inputs.part(begin, end), before[i])
        assert largest_error(output[begin:end], wanted) < CLOSE[dtype]
        assert largest_error(pool[i], last) < CLOSE[torch.float32]
        for chunk in range(begin, end, 64):
            _, state = scan_one(inputs.part(begin, chunk), before[i])
            assert largest_error(next(chunks), state) < CLOSE[dtype]
    assert next(chunks, None) is None


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=6).filter(any),
    channels=st.booleans(),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_any_batch_equals_its_sequences_one_by_one(
    lengths: list[int], channels: bool, seed: int, data: st.DataObject
) -> None:
    inputs = DeltaInput.random(sum(lengths), channels, seed=seed)
    slots = data.draw(st.permutations(range(8)).map(lambda p: p[: len(lengths)]))
    slots = [-1 if data.draw(st.booleans()) else slot for slot in slots]
    pool = pool_for(inputs, 8)
    before = pool.clone()
    output, states = scan(inputs, lengths, pool, slots)
    wanted, expected = [], before.clone()
    for slot, (begin, end) in zip(slots, pairwise(bounds_of(lengths).tolist()), strict=True):
        alone = before[slot : slot + 1].clone() if slot >= 0 else torch.zeros_like(before[:1])
        wanted.append(scan(inputs.part(begin, end), [end - begin], alone))
        if slot >= 0:
            expected[slot] = alone
    for ours, parts in zip((output, states), zip(*wanted, strict=True), strict=True):
        assert largest_error(ours, torch.cat(parts)) < 1e-6
    assert largest_error(pool, expected) < 1e-6
    untouched = [i for i in range(8) if i not in slots]
    assert torch.equal(pool[untouched], before[untouched])


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("cut", [1, 63, 64, 65, 130, 199])
def test_resumed_in_two_parts_equals_the_whole(channels: bool, cut: int) -> None:
    inputs = DeltaInput.random(200, channels)
    pool = pool_for(inputs, 1)
    resumed = pool.clone()
    whole, _ = scan(inputs, [200], pool)
    first, _ = scan(inputs.part(0, cut), [cut], resumed)
    second, _ = scan(inputs.part(cut, 200), [200 - cut], resumed)
    assert largest_error(torch.cat([first, second]), whole) < 1e-6
    assert largest_error(resumed, pool) < 1e-6


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("strongest", [5.0, 80.0, 3000.0])
def test_strong_and_weak_decays_in_one_chunk(channels: bool, strongest: float) -> None:
    """Neither overflow, nor lost digits of the weak decays behind the strong ones."""
    inputs = DeltaInput.random(128, channels)
    inputs.g[:] = -1e-3
    inputs.g[:, 3:40:5, 1:] = -strongest
    inputs.g[:, 64:72, 0] = -strongest
    if channels:
        inputs.g[:, ::3, 2, ::2] = -strongest
    pool = pool_for(inputs, 1)
    before = pool.clone()
    output, _ = scan(inputs, [128], pool)
    wanted, last = scan_one(inputs, before[0])
    for head in range(4):
        assert largest_error(output[:, head], wanted[:, head]) < 2e-6
        assert largest_error(pool[0, head], last[head]) < 2e-6


@pytest.mark.parametrize("channels", [False, True])
def test_nothing_decays_for_five_hundred_tokens(channels: bool) -> None:
    inputs = DeltaInput.random(500, channels)
    inputs.g[:] = 0
    pool = pool_for(inputs, 1)
    before = pool.clone()
    output, _ = scan(inputs, [500], pool)
    wanted, last = scan_one(inputs, before[0])
    assert largest_error(output, wanted) < 2e-6
    assert largest_error(pool[0], last) < 2e-6


@pytest.mark.parametrize("channels", [False, True])
def test_a_sequence_full_of_nan_leaves_its_neighbours_alone(channels: bool) -> None:
    lengths = [70, 7, 20]
    inputs = DeltaInput.random(97, channels)
    pool = pool_for(inputs, 3)
    dirty_pool = pool.clone()
    clean, _ = scan(inputs, lengths, pool)
    for tensor in (inputs.k, inputs.v, inputs.g):
        tensor[:, 70:77] = float("nan")
    dirty, _ = scan(inputs, lengths, dirty_pool)
    for part in (slice(0, 70), slice(77, 97)):
        assert torch.equal(clean[part], dirty[part])
    assert torch.equal(pool[::2], dirty_pool[::2])
    assert dirty[70:77].isnan().all()


@pytest.mark.parametrize("channels", [False, True])
def test_little_memory_gives_the_same(channels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [130, 300, 64]
    inputs = DeltaInput.random(sum(lengths), channels)
    pool = pool_for(inputs, 3)
    frugal_pool = pool.clone()
    output, states = scan(inputs, lengths, pool)
    monkeypatch.setattr(delta_rule, "BLOCK_ELEMENTS", 1)
    frugal, frugal_states = scan(inputs, lengths, frugal_pool)
    assert largest_error(frugal, output) < 1e-6
    assert largest_error(frugal_states, states) < 1e-6
    assert largest_error(frugal_pool, pool) < 1e-6


def test_repeated_single_tokens_are_the_scan() -> None:
    inputs = DeltaInput.random(40, channels=False)
    pool = pool_for(inputs, 3)
    stepped = pool.clone()
    slot = torch.tensor([2], dtype=torch.int32)
    whole, _ = scan(inputs, [40], pool, [2])
    for t in range(40):
        output = fused_recurrent_gated_delta_rule_update(
            **vars(inputs.part(t, t + 1)),
            initial_state_source=stepped,
            initial_state_indices=slot,
            cu_seqlens=bounds_of([1]),
            use_qk_l2norm_in_kernel=True,
        )
        assert largest_error(output[0, 0], whole[t]) < 2e-6
    assert largest_error(stepped, pool) < 1e-6
    assert torch.equal(stepped[:2], pool[:2])
