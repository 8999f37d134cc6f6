"""Both of Zaya's windows, taken inside a pass, are those of a prefill that ends there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.models.zaya import cca_extend
from sglang_marconi.forward.cca import take_convolved
from sglang_marconi.forward.layers import window
from sglang_marconi.forward.plan import Place, Row, carried_out
from support.passes import SomePass
from torch import Tensor, nn

CHANNELS, HIDDEN, PADDING, LAYER = 6, 10, 2, 4


class Zaya:
    """A layer's inputs in a pass and its convolutions, and two windows in each slot."""

    def __init__(self, some: SomePass, seed: int) -> None:
        torch.manual_seed(seed)
        self.qk = torch.randn(some.tokens, CHANNELS)
        self.hidden = torch.randn(some.tokens, HIDDEN)
        self.before = (
            torch.randn(some.slots, CHANNELS, PADDING),
            torch.randn(some.slots, HIDDEN, 1),
        )
        self.convolutions = nn.Sequential(
            nn.Conv1d(CHANNELS, CHANNELS, 2, groups=CHANNELS), nn.Conv1d(CHANNELS, CHANNELS, 2)
        ).requires_grad_(False)

    def extend(
        self,
        tokens: slice,
        states: tuple[Tensor, ...],
        slots: list[int],
        resumed: list[bool],
        lengths: list[int],
        taking: bool = False,
    ) -> tuple[Tensor, Tensor]:
        given: tuple[Any, ...] = (
            self.qk[tokens], self.hidden[tokens], self.convolutions, *states, slots, resumed,
            lengths, PADDING,
        )  # fmt: skip
        if taking:
            take_convolved(*given)
        found: tuple[Tensor, Tensor] = cca_extend(*given)
        return found


@pytest.mark.parametrize("seed", range(15))
def test_windows_are_those_of_prefixes(seed: int) -> None:
    some = SomePass.random(seed)
    layer = Zaya(some, seed)
    plain, pool = (tuple(each.clone() for each in layer.before) for _ in range(2))
    rows = (some.live.tolist(), some.resumed.tolist(), some.lengths)
    wanted = layer.extend(slice(None), plain, *rows)
    plan = some.plan()
    plan.at_layer(LAYER, SimpleNamespace(conv=list(pool)))
    with carried_out(plan):
        found = layer.extend(slice(None), pool, *rows, taking=True)
    assert plan.missing(iter([(window(0), LAYER), (window(1), LAYER)])) == []
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
    for number in range(2):
        assert torch.equal(pool[number][some.live], plain[number][some.live])
        others = some.untouched()
        assert torch.equal(pool[number][others], layer.before[number][others])
    for at in some.prefixes():
        alone = tuple(each.clone() for each in layer.before)
        live = int(some.live[at.row])
        layer.extend(slice(at.begin, at.end), alone, [live], [at.resumes], [at.end - at.begin])
        for number in range(2):
            assert torch.equal(pool[number][at.slot], alone[number][live])


def test_a_part_of_a_pass_leaves_nothing() -> None:
    some = SomePass.of([Row(5, False), Row(9, False)], [Place(0, 3), Place(1, 8)])
    layer = Zaya(some, 1)
    pool = tuple(each.clone() for each in layer.before)
    plan = some.plan()
    plan.at_layer(LAYER, SimpleNamespace(conv=list(pool)))
    with carried_out(plan):
        slots = some.live[1:].tolist()
        layer.extend(slice(5, 14), pool, slots, [False], [9], taking=True)
    assert plan.lacks(window(0), LAYER)
    assert plan.lacks(window(1), LAYER)
