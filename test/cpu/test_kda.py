"""Kimi Delta Attention's operations: gates, slots, padding and tracking around the recurrence."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang_marconi.cpu.kda import (
    chunk_kda,
    fused_recurrent_kda_packed_decode,
    fused_sigmoid_gating_delta_rule_update,
)
from support.delta_reference import DeltaInput, largest_error, scan_one
from torch import Tensor, nn
from transformers.models.glm5_next.modeling_glm5_next import Glm5NextTextForgetGate

HEADS, KEY_DIM, VALUE_DIM = 3, 8, 6
SIZES = (HEADS, HEADS, KEY_DIM, VALUE_DIM)
SLOTS = torch.tensor([3, -1, 0, 5], dtype=torch.int32)
BOUNDS = [None, -5.0]


class Gates:
    """A layer's raw gates, far from zero on both sides, and what they are for the model."""

    def __init__(self, tokens: int, lower_bound: float | None, dtype: torch.dtype) -> None:
        torch.manual_seed(3)
        config = SimpleNamespace(
            linear_head_dim=KEY_DIM, linear_num_heads=HEADS, hidden_size=KEY_DIM,
            linear_lower_bound=lower_bound,
        )  # fmt: skip
        gate = Glm5NextTextForgetGate(config)
        self.A_log, self.dt_bias = gate.A_log, gate.dt_bias
        with torch.no_grad():
            self.A_log.copy_(torch.empty(HEADS).uniform_(0.1, 16).log())
            self.dt_bias.normal_()
            self.raw = (torch.randn(1, tokens, HEADS * KEY_DIM) * 3).to(dtype)
            gate.f_a_proj, gate.f_b_proj = nn.Identity(), nn.Identity()
            self.decay = gate(self.raw)
        self.logits = (torch.randn(1, tokens, HEADS) * 3).to(dtype)

    def given(self) -> dict[str, Any]:
        """In the shapes of Kimi-Linear's parameters."""
        return {"A_log": self.A_log.detach()[None, None, :, None], "dt_bias": self.dt_bias.detach()}

    def inputs(self, raw: DeltaInput) -> DeltaInput:
        return DeltaInput(raw.q, raw.k, raw.v, self.decay, self.logits.float().sigmoid())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lower_bound", BOUNDS)
def test_prompt_with_raw_gates(lower_bound: float | None, dtype: torch.dtype) -> None:
    raw = DeltaInput.random(70, True, *SIZES, dtype=dtype)
    gates = Gates(70, lower_bound, dtype)
    pool = torch.randn(2, HEADS, VALUE_DIM, KEY_DIM)
    before = pool.clone()
    output = chunk_kda(
        raw.q, raw.k, raw.v, gates.raw.view(1, 70, HEADS, KEY_DIM), gates.logits,
        initial_state=pool, initial_state_indices=SLOTS[2:3] + 1, use_qk_l2norm_in_kernel=True,
        cu_seqlens=torch.tensor([0, 70]), lower_bound=lower_bound, beta_is_raw=True,
        **gates.given(),
    )  # fmt: skip
    assert isinstance(output, Tensor) and output.dtype == dtype
    wanted, state = scan_one(gates.inputs(raw), before[1])
    assert largest_error(output[0], wanted) < (2e-6 if dtype == torch.float32 else 4e-3)
    assert largest_error(pool[1], state) < 2e-6
    assert torch.equal(pool[0], before[0])


def test_tracked_states_are_those_before_their_chunks() -> None:
    """A row whose sequence has no such chunk is left alone, as one that asks for none."""
    lengths = [130, 64, 0, 200, 65, 3]
    wanted_chunks = [1, 1, 0, 3, -1, 0]
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    inputs = DeltaInput.random(sum(lengths), True, *SIZES)
    pool = torch.randn(6, HEADS, VALUE_DIM, KEY_DIM).bfloat16()
    before = pool.clone()
    track = torch.full((6, HEADS, VALUE_DIM, KEY_DIM), 7.0)
    chunk_kda(
        **vars(inputs), initial_state=pool, initial_state_indices=torch.arange(6),
        use_qk_l2norm_in_kernel=True, cu_seqlens=bounds.int(), track_state=track,
        track_chunk_idx=torch.tensor(wanted_chunks, dtype=torch.int32),
    )  # fmt: skip
    for row, chunk in enumerate(wanted_chunks):
        if row in (0, 3, 5):
            begin = int(bounds[row])
            _, state = scan_one(inputs.part(begin, begin + 64 * chunk), before[row])
            assert largest_error(track[row], state) < 2e-6
        else:
            assert (track[row] == 7).all()


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lower_bound", BOUNDS)
def test_packed_decode_step_with_padding(
    lower_bound: float | None, dtype: torch.dtype, state_dtype: torch.dtype
) -> None:
    raw, gates = DeltaInput.random(4, True, *SIZES, dtype=dtype), Gates(4, lower_bound, dtype)
    pool = torch.randn(6, HEADS, VALUE_DIM, KEY_DIM).to(state_dtype)
    before, out = pool.clone(), torch.full((4, 1, HEADS, VALUE_DIM), 7.0, dtype=dtype)
    mixed = torch.cat([t.flatten(2)[0] for t in (raw.q, raw.k, raw.v)], 1)
    returned = fused_recurrent_kda_packed_decode(
        mixed, gates.raw[0], gates.logits[0], gates.A_log.detach(), gates.dt_bias.detach(),
        KEY_DIM**-0.5, pool, out, SLOTS, use_qk_l2norm_in_kernel=True, lower_bound=lower_bound,
    )  # fmt: skip
    assert returned[0] is out and returned[1] is pool
    assert not out[1].any()
    for row in (0, 2, 3):
        one = gates.inputs(raw).part(row, row + 1)
        wanted, state = scan_one(one, before[SLOTS[row]])
        assert largest_error(out[row], wanted) < (1e-6 if dtype == torch.float32 else 4e-3)
        close = 1e-6 if state_dtype == torch.float32 else 4e-3
        assert largest_error(pool[SLOTS[row]], state) < close
    assert torch.equal(pool[[1, 2, 4]], before[[1, 2, 4]])


@pytest.mark.parametrize("lower_bound", BOUNDS)
@pytest.mark.parametrize("lengths", [[1, 1, 1, 1], [2, 1, 0, 1], [3, 1, 70, 0]])
def test_decode_steps_of_any_number(lengths: list[int], lower_bound: float | None) -> None:
    """Where padding has no state to start from, nor one to leave."""
    tokens = sum(lengths)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    raw, gates = DeltaInput.random(tokens, True, *SIZES), Gates(tokens, lower_bound, torch.float32)
    pool = torch.randn(6, HEADS, VALUE_DIM, KEY_DIM)
    before = pool.clone()
    given = gates.given()
    output = fused_sigmoid_gating_delta_rule_update(
        given["A_log"], gates.raw, given["dt_bias"], 1.0, 20.0, raw.q, raw.k, raw.v, gates.logits,
        pool, SLOTS, use_qk_l2norm_in_kernel=True, cu_seqlens=bounds.int(), is_kda=True,
        lower_bound=lower_bound,
    )  # fmt: skip
    for row, slot in enumerate(SLOTS):
        begin, end = bounds[row : row + 2].tolist()
        initial = before[slot] if slot >= 0 else torch.zeros_like(before[0])
        wanted, state = scan_one(gates.inputs(raw).part(begin, end), initial)
        assert largest_error(output[0, begin:end], wanted) < 2e-6
        if slot >= 0:
            assert largest_error(pool[slot], state) < 2e-6
    assert torch.equal(pool[[1, 2, 4]], before[[1, 2, 4]])


def test_what_cannot_be_done_is_refused() -> None:
    inputs = vars(DeltaInput.random(3, True, *SIZES))
    pool, slot = torch.zeros(1, HEADS, VALUE_DIM, KEY_DIM), torch.tensor([0])
    with pytest.raises(ValueError, match="pool"):
        chunk_kda(**inputs, initial_state=pool)
    gates = Gates(3, None, torch.float32)
    update: Callable[..., Any] = fused_sigmoid_gating_delta_rule_update
    q, k, v, *_ = inputs.values()
    required = (gates.A_log, gates.raw, gates.dt_bias, 1.0, 20.0, q, k, v, gates.logits, pool, slot)
    for asked in ("disable_state_update", "cache_ring", "match_cutedsl_decode"):
        with pytest.raises(NotImplementedError, match="speculative"):
            update(*required, is_kda=True, **{asked: True})
    for asked in ("intermediate_states_buffer", "retrieve_parent_token"):
        with pytest.raises(NotImplementedError, match="speculative"):
            update(*required, is_kda=True, **{asked: pool})
