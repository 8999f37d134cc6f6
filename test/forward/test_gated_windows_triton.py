"""LFM2's fused convolution in Triton: its windows are the products that are taken before it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sglang.kernels.ops.mamba.lfm_short_conv import fused_lfm_short_conv_prefill
from sglang_marconi.forward.layers import window
from sglang_marconi.forward.plan import Place, Row, carried_out
from sglang_marconi.forward.windows import take_gated_windows
from support.passes import SomePass
from torch import Tensor

DIM, WIDTH, LAYER = 64, 3, 2

PASSES = {
    "short": SomePass.of(
        [Row(1, True), Row(2, False), Row(1, False), Row(5, True)],
        [Place(1, 1), Place(3, 1), Place(3, 4)],
    ),
    "over edges of blocks": SomePass.of(
        [Row(33, False), Row(40, True)],
        [Place(0, 2), Place(0, 32), Place(1, 31), Place(1, 33)],
    ),
}


def small(*shape: int) -> Tensor:
    """Whole numbers: the interpreter cuts off what a GPU rounds to half precision."""
    return torch.randint(-7, 8, shape).bfloat16()


def convolve(
    gate: Tensor, x: Tensor, states: Tensor, slots: Tensor, resumed: Tensor, lengths: list[int]
) -> None:
    torch.manual_seed(1)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    given = (gate, gate, x, small(DIM, WIDTH), states, bounds, slots, resumed, max(lengths))
    take_gated_windows(*given)
    fused_lfm_short_conv_prefill(*given)


@pytest.mark.parametrize("name", PASSES)
def test_windows_are_those_of_prefixes(name: str) -> None:
    some = PASSES[name]
    torch.manual_seed(0)
    gate, x = small(some.tokens, DIM), small(some.tokens, DIM)
    before = small(some.slots, DIM, WIDTH - 1)
    pool = before.clone()
    plan = some.plan()
    plan.at_layer(LAYER, SimpleNamespace(conv=[pool]))
    with carried_out(plan):
        convolve(gate, x, pool, some.live, some.resumed, some.lengths)
    assert not plan.lacks(window(), LAYER)
    assert torch.equal(pool[some.untouched()], before[some.untouched()])
    for at in some.prefixes():
        alone = before.clone()
        part = slice(at.begin, at.end)
        live = some.live[at.row]
        convolve(
            gate[part], x[part], alone, live[None], torch.tensor([at.resumes]), [at.end - at.begin]
        )
        assert torch.equal(pool[at.slot], alone[live])
