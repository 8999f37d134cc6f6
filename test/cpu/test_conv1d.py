"""The short convolution against a direct evaluation of its definition."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_marconi.cpu.conv1d import causal_conv1d_fn, causal_conv1d_update
from torch import Tensor
from torch.nn import functional as F

DIM, WIDTH, SLOTS = 6, 4, 9


def direct(sequence: Tensor, past: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``silu(conv)`` of ``(dim, n)`` behind ``(dim, width - 1)``, by torch's own convolution."""
    joined = torch.cat([past, sequence], dim=1)[None]
    return F.silu(F.conv1d(joined, weight[:, None], bias, groups=len(weight)))[0]


def parameters() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(DIM, WIDTH), torch.randn(DIM), torch.randn(SLOTS, DIM, WIDTH - 1)


def run(x: Tensor, lengths: Sequence[int], states: Tensor | None, **options: object) -> Tensor:
    weight, bias, _ = parameters()
    start = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()
    return causal_conv1d_fn(
        x, weight, bias, conv_states=states, query_start_loc=start, seq_lens_cpu=list(lengths),
        **options,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    data=st.data(),
)
def test_packed_sequences_and_their_states(lengths: list[int], data: st.DataObject) -> None:
    weight, bias, pool = parameters()
    n = len(lengths)
    slots = data.draw(st.permutations(range(SLOTS)).map(lambda p: p[:n]))
    resumed = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    padded = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    slots = [-1 if pad else slot for slot, pad in zip(slots, padded, strict=True)]
    tokens = torch.randn(sum(lengths), DIM)
    before = pool.clone()
    out = run(
        tokens.t(), lengths, pool,
        cache_indices=torch.tensor(slots, dtype=torch.int32),
        has_initial_state=torch.tensor(resumed),
    )  # fmt: skip
    begin = 0
    for length, slot, goes_on in zip(lengths, slots, resumed, strict=True):
        part = slice(begin, begin + length)
        begin += length
        if slot < 0:
            assert not out[:, part].any()
            continue
        past = before[slot] if goes_on else torch.zeros(DIM, WIDTH - 1)
        wanted = direct(tokens[part].t(), past, weight, bias) if length else out[:, part]
        torch.testing.assert_close(out[:, part], wanted, rtol=1e-5, atol=1e-5)
        joined = torch.cat([past, tokens[part].t()], dim=1)
        assert torch.equal(pool[slot], joined[:, length:])
    rest = [i for i in range(SLOTS) if i not in slots]
    assert torch.equal(pool[rest], before[rest])


def test_two_parts_and_decode_steps_equal_the_whole() -> None:
    weight, bias, _ = parameters()
    tokens = torch.randn(20, DIM)
    whole = run(tokens.t(), [20], None)
    pool = torch.full((2, DIM, WIDTH - 1), 7.0)
    one = {"cache_indices": torch.tensor([1]), "has_initial_state": torch.tensor([False])}
    parts = [run(tokens[:2].t(), [2], pool, **one)]
    one["has_initial_state"] = torch.tensor([True])
    parts.append(run(tokens[2:9].t(), [7], pool, **one))
    for token in tokens[9:]:
        step = causal_conv1d_update(
            token[None], pool, weight, bias, "silu", conv_state_indices=torch.tensor([1])
        )
        parts.append(step.t())
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-6)
    assert (pool[0] == 7.0).all()


def test_update_of_several_steps_skips_padding_and_keeps_wider_states() -> None:
    weight, bias, _ = parameters()
    pool = torch.randn(SLOTS, DIM, WIDTH + 1).bfloat16()
    before = pool.clone()
    x = torch.randn(3, DIM, 5).bfloat16()
    slots = torch.tensor([4, -1, 0], dtype=torch.int32)
    out = causal_conv1d_update(x, pool, weight, bias, "silu", conv_state_indices=slots)
    assert out.dtype == torch.bfloat16 and not out[1].any()
    for row, slot in ((0, 4), (2, 0)):
        past = before[slot, :, : WIDTH - 1].float()
        wanted = direct(x[row].float(), past, weight, bias)
        torch.testing.assert_close(out[row].float(), wanted, rtol=1e-2, atol=1e-2)
        assert torch.equal(pool[slot, :, : WIDTH - 1], x[row, :, -(WIDTH - 1) :])
        assert torch.equal(pool[slot, :, WIDTH - 1 :], before[slot, :, WIDTH - 1 :])
    assert torch.equal(pool[[1, 2, 3, 5, 6, 7, 8]], before[[1, 2, 3, 5, 6, 7, 8]])


def test_batch_layout_without_bounds_or_activation() -> None:
    weight, _, _ = parameters()
    x = torch.randn(2, DIM, 8)
    out = causal_conv1d_fn(x, weight, None, None, None, None, activation=None)
    wanted = F.conv1d(F.pad(x, (WIDTH - 1, 0)), weight[:, None], groups=DIM)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_done_is_refused() -> None:
    weight, bias, pool = parameters()
    x = torch.randn(1, DIM)
    with pytest.raises(NotImplementedError, match="circular"):
        causal_conv1d_update(x, pool, weight, bias, cache_seqlens=torch.zeros(1))
    with pytest.raises(NotImplementedError, match="relu"):
        causal_conv1d_update(x, pool, weight, bias, "relu")
