"""States of lightning attention inside a pass are those of prefills that end there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sglang_marconi.cpu.lightning import seg_la_fwd
from sglang_marconi.forward.lightning import take_lightning
from sglang_marconi.forward.plan import Row
from support.delta_reference import largest_error
from support.lightning_inputs import SIZES, SLOPES, meta_of, vectors
from support.recurrent_passes import CLOSE, MANY, Planned, alone, check, passes, take
from torch import Tensor


class Calls:
    """The operation, hooked, and the tokens of each of its calls."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def original(self, q: Tensor, *others: Any, **options: Any) -> Tensor:
        self.tokens.append(len(q))
        assert options["softmax_scale"] == 0.3
        return seg_la_fwd(q, *others, **options)

    def __call__(self, inputs: Sequence[Tensor], pool: Tensor, planned: Planned) -> Tensor:
        meta = meta_of(planned)
        return take_lightning(self.original, *inputs, pool, SLOPES, meta, softmax_scale=0.3)


@settings(max_examples=15)
@example(planned=MANY, seed=0)
@given(planned=passes(), seed=st.integers(0, 1000))
def test_lightning(planned: Planned, seed: int) -> None:
    check(Calls(), vectors(int(planned.bounds[-1]), seed), SIZES, planned)


def test_what_remains_is_run_from_the_edge_that_saves_most() -> None:
    calls = Calls()
    take(calls, vectors(496), torch.randn(16, *SIZES), MANY)
    # Kept by the pass: 128 tokens of the first row, for its last place, 32 of the second, and 128
    # of the third.
    assert calls.tokens == [496, (1 + 1) + (31 + 31) + 72, 62 + 55, 1 + 44, 1]


def test_what_sglang_tracks_is_tracked() -> None:
    def run(inputs: Sequence[Tensor], pool: Tensor, planned: Planned) -> Tensor:
        lengths = torch.tensor([64, 0, 0, 0, 0], dtype=torch.int32)
        return take_lightning(
            Calls().original,
            *inputs,
            pool,
            SLOPES,
            meta_of(planned),
            track_lens=lengths,
            track_state_indices=torch.tensor([5, -1, -1, -1, -1]),
            softmax_scale=0.3,
        )

    before = torch.randn(5 + 1 + len(MANY.places), *SIZES)
    plain, pool = before.clone(), before.clone()
    wanted = run(vectors(496), plain, MANY)
    output, states = take(run, vectors(496), pool, MANY)
    assert torch.equal(output, wanted)
    assert torch.equal(pool[:6], plain[:6]) and not torch.equal(pool[5], before[5])
    for state, place in zip(states, MANY.places, strict=True):
        assert largest_error(state, alone(Calls(), vectors(496), before, MANY, place)) < CLOSE


@pytest.mark.parametrize("tracked", [1, 33, 64, 130, 131])
def test_the_operation_of_a_cpu_tracks_anywhere_and_changes_nothing(tracked: int) -> None:
    planned = Planned([Row(7, True), Row(130, True)], [])
    inputs, meta = vectors(137), meta_of(planned)
    pools = [torch.randn(3, *SIZES, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    before = pools[0].clone()
    targets = torch.tensor([-1, 2])
    outputs = [
        seg_la_fwd(*inputs, pools[0], SLOPES, meta),
        seg_la_fwd(
            *inputs, pools[1], SLOPES, meta,
            track_lens=torch.tensor([0, tracked]), track_state_indices=targets,
        ),
    ]  # fmt: skip
    assert torch.equal(*outputs) and torch.equal(pools[0][:2], pools[1][:2])
    if tracked > 130:
        assert torch.equal(pools[1][2], before[2])
        return
    own = before[planned.slots[1].long()][None].clone()
    prefix = Planned([Row(tracked, True)], [])
    seg_la_fwd(*(each[7 : 7 + tracked] for each in inputs), own, SLOPES, meta_of(prefix))
    torch.testing.assert_close(pools[1][2], own[0], rtol=0, atol=1e-5 * float(own.abs().max()))
