"""Lightning attention against SGLang's kernels, under Triton's interpreter."""

from collections.abc import Sequence

import pytest
import torch
from sglang.kernels.ops.attention.linear import lightning_attn as theirs
from sglang.kernels.ops.attention.linear.seg_la import SegLaMeta
from sglang.kernels.ops.attention.linear.seg_la import seg_la_fwd as their_seg_la_fwd
from sglang_marconi.cpu.lightning import (
    lightning_attention,
    linear_decode_forward_triton,
    seg_la_fwd,
)
from torch import Tensor
from torch.nn import functional as F

SLOTS = 13
# A state kept for good, two kinds of decay that models have, and one that forgets at once.
SLOPES = torch.tensor([1e-6, 0.0078, 0.84, 2.5])
HEADS = len(SLOPES)
# Triton's interpreter cuts off what a GPU rounds to half precision.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}


def inputs(tokens: int, dim: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(tokens)
    return [torch.randn(tokens, HEADS, dim).to(dtype) for _ in range(3)]


def meta(lengths: Sequence[int], slots: Sequence[int], resumed: Sequence[bool]) -> SegLaMeta:
    counts = torch.tensor(lengths, dtype=torch.int32)
    return SegLaMeta(
        batch_size=len(lengths),
        max_q_length=None,
        q_offsets=F.pad(counts.cumsum(0), (1, 0)).int(),
        s_offsets=torch.tensor(slots, dtype=torch.int32),
        q_lengths=counts,
        s_scales=torch.tensor(resumed),
    )


def assert_close(ours: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    scale = float(wanted.abs().max())
    torch.testing.assert_close(ours.float(), wanted.float(), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[64], [130], [1, 130, 64, 5, 63, 65, 2], [40, 0, 33]])
def test_prefill_and_tracked_states(lengths: list[int], dtype: torch.dtype) -> None:
    q, k, v = inputs(sum(lengths), 64, dtype)
    n = len(lengths)
    resumed = [i % 2 == 0 for i in range(n)]
    slots = [3, 7, 0, 9, 5, 1, 11][:n]
    if n > 2:
        slots[1] = -1
    # The kernel tracks at multiples of its block of 32 tokens and at the end.
    tracked = torch.tensor([min(64, length) for length in lengths], dtype=torch.int32)
    if n > 2:  # Neither is copied: no token, and more than there are.
        tracked[0], tracked[-1] = 0, lengths[-1] + 32
    copies = torch.tensor([10, 2, 8, -1, 4, 6, 2][:n], dtype=torch.int32)
    pool = torch.randn(SLOTS, HEADS, 64, 64)
    wanted_pool = pool.clone()
    given = meta(lengths, slots, resumed)
    wanted = their_seg_la_fwd(
        q, k, v, wanted_pool, SLOPES, given, track_lens=tracked, track_state_indices=copies
    )
    out = seg_la_fwd(q, k, v, pool, SLOPES, given, track_lens=tracked, track_state_indices=copies)
    assert out.dtype == dtype
    kept = torch.repeat_interleave(torch.tensor(slots) != -1, torch.tensor(lengths))
    assert_close(out[kept], wanted[kept], CLOSE[dtype])
    assert not out[~kept].any()
    assert_close(pool, wanted_pool)
    untouched = [i for i in range(SLOTS) if i not in {*slots, *copies.tolist()}]
    assert torch.equal(pool[untouched], wanted_pool[untouched])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decode_step(dtype: torch.dtype) -> None:
    q, k, v = inputs(3, 128, dtype)
    pool = torch.randn(SLOTS, HEADS, 128, 128)
    wanted_pool = pool.clone()
    given = meta([1, 1, 1], [4, -1, 0], [True] * 3)
    wanted = their_seg_la_fwd(q, k, v, wanted_pool, SLOPES, given, softmax_scale=0.3)
    out = seg_la_fwd(q, k, v, pool, SLOPES, given, softmax_scale=0.3)
    kept = [0, 2]
    assert_close(out[kept], wanted[kept], CLOSE[dtype])
    assert not out[1].any()
    assert_close(pool, wanted_pool)


@pytest.mark.parametrize("tokens", [1, 63, 256])
def test_prefill_of_the_other_backend(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    q, k, v = (t.transpose(0, 1)[None].contiguous() for t in inputs(tokens, 64))
    slopes = SLOPES.view(-1, 1, 1)
    wanted, states = theirs.lightning_attention(q, k, v, slopes)
    out, last = lightning_attention(q, k, v, slopes)
    assert_close(out, wanted)
    assert_close(last[:, :, -1], states[:, :, -1])


@pytest.mark.parametrize("tokens", [1, 70])
def test_it_goes_on_as_its_decode_steps_do(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its prefill kernel decays a state once too little in the output, so that its results depend
    on where a prompt is cut; the states are right, and so is the kernel of the decode step."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    q, k, v = (t.transpose(0, 1)[None].contiguous() for t in inputs(tokens, 64))
    slopes = SLOPES.view(-1, 1, 1)
    history = torch.randn(1, HEADS, 64, 64)
    _, states = theirs.lightning_attention(q, k, v, slopes, kv_history=history)
    stepped, slot = history.clone(), torch.tensor([0])
    steps = [
        theirs.linear_decode_forward_triton(
            *(t[:, :, i : i + 1].contiguous() for t in (q, k, v)), stepped, slopes, slot
        )
        for i in range(tokens)
    ]
    before = history.clone()
    out, last = lightning_attention(q, k, v, slopes, kv_history=history)
    assert_close(out[0].transpose(0, 1).flatten(1), torch.cat(steps))
    assert_close(last[:, :, -1], states[:, :, -1])
    assert torch.equal(history, before)


def test_decode_step_of_the_other_backend() -> None:
    q, k, v = (t[:, :, None] for t in inputs(3, 64))
    pool = torch.randn(SLOTS, HEADS, 64, 64)
    wanted_pool = pool.clone()
    slots = torch.tensor([4, -1, 0], dtype=torch.int32)
    slopes = SLOPES.view(-1, 1, 1)
    wanted = theirs.linear_decode_forward_triton(q, k, v, wanted_pool, slopes, slots)
    out = linear_decode_forward_triton(q, k, v, pool, slopes, slots)
    assert_close(out[[0, 2]], wanted[[0, 2]])
    assert not out[1].any()
    assert_close(pool, wanted_pool)
