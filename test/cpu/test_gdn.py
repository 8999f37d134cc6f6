"""Gated DeltaNet's operations: gates, slots, padding and layouts around the recurrence."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang_marconi.cpu.gdn import (
    chunk_gated_delta_rule,
    fused_gdn_gating,
    fused_qkvzba_split_reshape_cat,
    fused_qkvzba_split_reshape_cat_contiguous,
    fused_recurrent_gated_delta_rule_packed_decode,
    fused_recurrent_gated_delta_rule_update,
)
from support.delta_reference import DeltaInput, largest_error, scan_one
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

HEADS, VALUE_HEADS, KEY_DIM, VALUE_DIM = 2, 4, 8, 6
SLOTS = torch.tensor([3, -1, 0, 5], dtype=torch.int32)


def gates(tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``A_log, a, b, dt_bias``, with raw gates far from zero on both sides."""
    torch.manual_seed(3)
    a, b = (torch.randn(tokens, VALUE_HEADS) * 8 for _ in range(2))
    A_log = torch.empty(VALUE_HEADS).uniform_(1, 16).log()
    return A_log, a.to(dtype), b.to(dtype), torch.randn(VALUE_HEADS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gates_are_those_of_the_model(dtype: torch.dtype) -> None:
    A_log, a, b, dt_bias = gates(50, dtype)
    g, beta = fused_gdn_gating(A_log, a, b, dt_bias)
    assert g.dtype == beta.dtype == torch.float32
    wanted = -A_log.exp() * F.softplus(a.float() + dt_bias)
    assert g.shape == (1, 50, VALUE_HEADS) and largest_error(g[0], wanted) < 1e-6
    assert torch.equal(beta[0], b.sigmoid().float())


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decode_step_with_padding(dtype: torch.dtype, state_dtype: torch.dtype) -> None:
    inputs = DeltaInput.random(4, channels=False, dtype=dtype)
    A_log, a, b, dt_bias = gates(4, dtype)
    g, beta = fused_gdn_gating(A_log, a, b, dt_bias)
    pool = torch.randn(6, VALUE_HEADS, VALUE_DIM, KEY_DIM).to(state_dtype)
    before, out = pool.clone(), torch.full((4, 1, VALUE_HEADS, VALUE_DIM), 7.0, dtype=dtype)
    mixed = torch.cat([t.flatten(2)[0] for t in (inputs.q, inputs.k, inputs.v)], 1)
    returned = fused_recurrent_gated_delta_rule_packed_decode(
        mixed, a, b, A_log, dt_bias, KEY_DIM**-0.5, pool, out, SLOTS, use_qk_l2norm_in_kernel=True
    )
    assert returned[0] is out and returned[1] is pool
    assert not out[1].any()
    for row in (0, 2, 3):
        one = inputs.part(row, row + 1)
        one = DeltaInput(one.q, one.k, one.v, g[:, row : row + 1], beta[:, row : row + 1])
        wanted, state = scan_one(one, before[SLOTS[row]])
        assert largest_error(out[row], wanted) < (1e-6 if dtype == torch.float32 else 4e-3)
        close = 1e-6 if state_dtype == torch.float32 else 4e-3
        assert largest_error(pool[SLOTS[row]], state) < close
    assert torch.equal(pool[[1, 2, 4]], before[[1, 2, 4]])


def test_lengths_are_kept_and_queries_scaled_where_asked_for() -> None:
    inputs = DeltaInput.random(70, channels=False)
    pool = torch.randn(1, VALUE_HEADS, VALUE_DIM, KEY_DIM)
    wanted, _ = scan_one(inputs, pool[0])
    unit = {
        **vars(inputs), "q": 3 * F.normalize(inputs.q, dim=-1), "k": F.normalize(inputs.k, dim=-1),
        "initial_state_indices": torch.tensor([0]),
    }  # fmt: skip
    for scale, factor in ((None, 3.0), (0.5, 1.5 * KEY_DIM**0.5)):
        output, *_ = chunk_gated_delta_rule(**unit, scale=scale, initial_state=pool.clone())
        assert largest_error(output[0], wanted * factor) < 2e-6
        output = fused_recurrent_gated_delta_rule_update(
            **unit, scale=scale, initial_state_source=pool.clone()
        )
        assert largest_error(output[0], wanted * factor) < 2e-6


def test_rows_of_a_plain_batch_and_a_pool_that_is_left_alone() -> None:
    inputs = DeltaInput.random(210, channels=False)
    rows = {name: t.view(3, 70, *t.shape[2:]) for name, t in vars(inputs).items()}
    pool = torch.randn(6, VALUE_HEADS, VALUE_DIM, KEY_DIM)
    before, slots = pool.clone(), torch.tensor([5, 0, 2])
    given: dict[str, Any] = {"initial_state": pool, "use_qk_l2norm_in_kernel": True}
    output, _, states = chunk_gated_delta_rule(
        **rows, **given, initial_state_indices=slots, inplace_update=False
    )
    assert torch.equal(pool, before)
    assert states.shape == (3, 2, VALUE_HEADS, VALUE_DIM, KEY_DIM)
    for row, slot in enumerate(slots):
        one = inputs.part(70 * row, 70 * row + 70)
        wanted, _ = scan_one(one, before[slot])
        assert largest_error(output[row], wanted) < 2e-6
        assert torch.equal(states[row, 0], before[slot])
        assert largest_error(states[row, 1], scan_one(one.part(0, 64), before[slot])[1]) < 2e-6


def test_tokens_behind_the_last_sequence_get_zeros() -> None:
    inputs = DeltaInput.random(12, channels=False)
    pool = torch.randn(1, VALUE_HEADS, VALUE_DIM, KEY_DIM)
    output, _, states = chunk_gated_delta_rule(
        **vars(inputs), initial_state=pool, initial_state_indices=torch.tensor([0]),
        cu_seqlens=torch.tensor([0, 9]),
    )  # fmt: skip
    assert output[0, :9].all() and not output[0, 9:].any()
    assert states.shape[1] == 1


def test_one_token_each_without_betas_and_with_padding() -> None:
    inputs = DeltaInput.random(4, channels=False)
    pool = torch.randn(6, VALUE_HEADS, VALUE_DIM, KEY_DIM)
    before = pool.clone()
    output = fused_recurrent_gated_delta_rule_update(
        inputs.q, inputs.k, inputs.v, inputs.g, None, None, pool, SLOTS, torch.arange(5),
        use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    inputs.beta[:] = 1
    for row, slot in enumerate(SLOTS):
        initial = before[slot] if slot >= 0 else torch.zeros_like(before[0])
        wanted, state = scan_one(inputs.part(row, row + 1), initial)
        assert largest_error(output[0, row : row + 1], wanted) < 1e-6
        if slot >= 0:
            assert largest_error(pool[slot], state) < 1e-6
    assert torch.equal(pool[[1, 2, 4]], before[[1, 2, 4]])


def projections() -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    features = 2 * HEADS * KEY_DIM + 2 * VALUE_HEADS * VALUE_DIM
    return torch.randn(5, features), torch.randn(5, 2 * VALUE_HEADS)


def test_interleaved_projections_come_apart_as_in_the_model() -> None:
    qkvz, ba = projections()
    layer = SimpleNamespace(
        num_k_heads=HEADS, num_v_heads=VALUE_HEADS, head_k_dim=KEY_DIM, head_v_dim=VALUE_DIM
    )
    query, key, value, *others = Qwen3NextGatedDeltaNet.fix_query_key_value_ordering(
        layer, qkvz[None], ba[None]
    )
    wanted = torch.cat([t.flatten(2)[0] for t in (query, key, value)], 1)
    mixed, *ours = fused_qkvzba_split_reshape_cat(qkvz, ba, HEADS, VALUE_HEADS, KEY_DIM, VALUE_DIM)
    assert torch.equal(mixed, wanted)
    for part, theirs in zip(ours, others, strict=True):
        assert torch.equal(part, theirs[0])


def test_contiguous_projections_come_apart() -> None:
    qkvz, ba = projections()
    q, v = HEADS * KEY_DIM, VALUE_HEADS * VALUE_DIM
    mixed, z, b, a = fused_qkvzba_split_reshape_cat_contiguous(
        qkvz, ba, HEADS, VALUE_HEADS, KEY_DIM, VALUE_DIM
    )
    assert torch.equal(mixed, qkvz[:, : 2 * q + v])
    assert torch.equal(z, qkvz[:, 2 * q + v :].view(5, VALUE_HEADS, VALUE_DIM))
    assert torch.equal(torch.cat([b, a], 1), ba)


def test_what_cannot_be_done_is_refused() -> None:
    inputs = vars(DeltaInput.random(3, channels=False))
    pool, slot = torch.zeros(1, VALUE_HEADS, VALUE_DIM, KEY_DIM), torch.tensor([0])
    update: Callable[..., Any] = fused_recurrent_gated_delta_rule_update
    chunk: Callable[..., Any] = chunk_gated_delta_rule
    for function, name in (
        (chunk, "initial_state"),
        (update, "initial_state_source"),
    ):
        with pytest.raises(ValueError, match="pool"):
            function(**inputs)
        two = {key: torch.cat([t, t]) for key, t in inputs.items()}
        with pytest.raises(ValueError, match="one row, got 2"):
            function(
                **two, **{name: pool}, initial_state_indices=slot, cu_seqlens=torch.tensor([0, 6])
            )
    with pytest.raises(NotImplementedError, match="heads"):
        chunk(**inputs, head_first=True)
    for asked in ("disable_state_update", "disable_output_calculation"):
        with pytest.raises(NotImplementedError, match="speculative"):
            update(**inputs, **{asked: True})
    for asked in ("intermediate_states_buffer", "retrieve_parent_token"):
        with pytest.raises(NotImplementedError, match="speculative"):
            update(**inputs, **{asked: pool})
