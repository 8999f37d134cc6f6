"""States of JetBlocks inside a pass are those of prefills that end there."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sglang_marconi.cpu.gdn import fused_recurrent_gated_delta_rule_update
from sglang_marconi.forward.jet import take_jet, take_jet_windows
from sglang_marconi.forward.layers import window
from sglang_marconi.forward.plan import PassPlan, carried_out
from support.delta_inputs import SIZES, gdn_inputs
from support.recurrent_passes import MANY, Planned, check, passes, take
from torch import Tensor

# The operation of a CPU takes 64 tokens of a row at a time, from where it begins.
LAST_DIGITS = 3e-6


class Calls:
    """The operation, hooked, and the tokens of each of its calls."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def original(self, q: Tensor, *others: Tensor, **options: Any) -> Tensor:
        self.tokens.append(q.shape[1])
        return fused_recurrent_gated_delta_rule_update(q, *others, **options)

    def __call__(self, inputs: Sequence[Tensor], pool: Tensor, planned: Planned) -> Tensor:
        return take_jet(
            self.original,
            *(each[None] for each in inputs),
            initial_state_source=pool,
            initial_state_indices=planned.slots,
            cu_seqlens=planned.bounds,
            use_qk_l2norm_in_kernel=True,
        )


@settings(max_examples=15)
@example(planned=MANY, seed=0)
@given(planned=passes(), seed=st.integers(0, 1000))
def test_recurrence(planned: Planned, seed: int) -> None:
    check(Calls(), gdn_inputs(int(planned.bounds[-1]), seed), SIZES, planned, LAST_DIGITS)


def test_no_token_is_computed_twice() -> None:
    calls = Calls()
    take(calls, gdn_inputs(496), torch.randn(16, *SIZES), MANY)
    assert calls.tokens == [1 + 31 + 128 + 1 + 1, 62 + 32 + 72, 1 + 1 + 55, 1 + 44, 64 + 1, 1]
    assert sum(calls.tokens) == 496


def convolved(x: Tensor, states: Tensor, lengths: Sequence[int]) -> Tensor:
    """The windows behind each row, of a convolution that SGLang's stands for."""
    behind = []
    for row, part in enumerate(x.split(list(lengths))):
        behind.append(torch.cat([states[row], part.transpose(0, 1)], 1)[:, -states.shape[2] :])
    return torch.stack(behind)


@pytest.mark.parametrize("extra", [0, 5])
@settings(max_examples=15)
@example(planned=MANY)
@given(planned=passes(longest=70))
def test_windows(extra: int, planned: Planned) -> None:
    """With rows in front that a pool has and the convolution does not use, or without."""
    channels, width, rows = 6, 3, len(planned.rows)
    x = torch.randn(int(planned.bounds[-1]), channels)
    pool = torch.randn(rows + len(planned.places), channels + extra, width)
    before = pool.clone()
    given = torch.where(planned.resumes[:, None, None], pool[planned.slots.long(), extra:], 0.0)
    slots = [torch.tensor([rows + n]) for n in range(len(planned.places))]
    plan = PassPlan(planned.rows, planned.places, slots)
    plan.at_layer(2, SimpleNamespace(conv=[pool]))
    lengths = torch.tensor([row.tokens for row in planned.rows])

    def original(_layer: Any, x: Tensor, *, conv_state: Tensor, seq_lens: Tensor) -> Tensor:
        return convolved(x, conv_state, seq_lens.tolist())

    def run() -> Tensor:
        result = take_jet_windows(original, None, x, conv_state=given, seq_lens=lengths)
        assert isinstance(result, Tensor)
        return result

    wanted = run()
    with carried_out(plan):
        assert torch.equal(run(), wanted)
    assert not plan.missing(iter([(window(), 2)]))
    assert torch.equal(pool[:rows], before[:rows])
    assert torch.equal(pool[:, :extra], before[:, :extra])
    for taken, (row, tokens) in zip(pool[rows:, extra:], planned.places, strict=True):
        begin = int(planned.bounds[row])
        part = x[begin : begin + tokens]
        assert torch.equal(taken, convolved(part, given[row : row + 1], [tokens])[0])
