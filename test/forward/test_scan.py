"""States taken inside Mamba2's scan are those of a prefill that ends there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang_marconi.cpu.mamba2 import mamba_chunk_scan_combined
from sglang_marconi.forward.layers import RECURRENT
from sglang_marconi.forward.plan import PassPlan, Place, Row, carried_out
from sglang_marconi.forward.scan import take_in_rounds, take_scanned
from support.passes import SomePass, assert_close
from support.scans import LAYER, Layer, initial_states, of_prefixes, scanned, taken
from torch import Tensor

SEEDS = range(15)


def same(one: tuple[Tensor | None, ...], other: tuple[Tensor | None, ...]) -> bool:
    return all(
        a is b if a is None or b is None else torch.equal(a, b)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("chunk_size", [16, 64, 256])
@pytest.mark.parametrize("seed", SEEDS)
def test_states_are_those_of_prefixes(seed: int, chunk_size: int) -> None:
    some = SomePass.random(seed)
    layer = Layer.of(some, seed)
    plan = some.plan()
    found, pool = taken(mamba_chunk_scan_combined, some, layer, plan, chunk_size=chunk_size)
    assert plan.missing(iter([(RECURRENT, LAYER)])) == []
    wanted = of_prefixes(mamba_chunk_scan_combined, some, layer)
    for slot, state in zip(some.taken, wanted, strict=True):
        assert_close(pool[slot], state)
    others = torch.cat([some.live, some.untouched()])
    assert torch.equal(pool[others], layer.before[others])
    plain = scanned(
        mamba_chunk_scan_combined,
        layer.inputs,
        some.lengths,
        initial_states(some, layer.before),
        chunk_size,
    )
    assert same(found, plain)


@pytest.mark.parametrize("seed", SEEDS)
def test_beside_those_that_sglang_asks_for(seed: int) -> None:
    some = SomePass.random(seed)
    layer = Layer.of(some, seed)
    # One of a row at most, on its grid.
    asked = [row for row, tokens in enumerate(some.lengths) if tokens > 64]
    tracked: dict[str, Any] = {
        "track_seq_idx": torch.tensor(asked, dtype=torch.int32),
        "track_end_locs": some.bounds[asked] + 64,
    }
    found, pool = taken(mamba_chunk_scan_combined, some, layer, **tracked)
    for slot, state in zip(
        some.taken, of_prefixes(mamba_chunk_scan_combined, some, layer), strict=True
    ):
        assert_close(pool[slot], state)
    plain = scanned(
        mamba_chunk_scan_combined,
        layer.inputs,
        some.lengths,
        initial_states(some, layer.before),
        **tracked,
    )
    assert same(found[:3], plain[:3])
    if not asked:
        assert found.tracked is plain.tracked is None
        return
    # Filled up with zeros to the longest that is asked for, they may be summed in another order.
    for state, expected in zip(found.tracked[0], plain.tracked[0], strict=True):
        assert_close(state, expected)


def test_a_part_of_a_pass_leaves_nothing() -> None:
    some = SomePass.of([Row(5, False), Row(9, False)], [Place(0, 3), Place(1, 8)])
    layer = Layer.of(some, 1)
    part = layer.inputs.part(5, 14)
    plan = some.plan()
    seen: list[Any] = []

    def original(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs.get("track_end_locs"))
        # It asks for its own as the scan does, with less than a pass to ask in.
        ends = torch.tensor([9])
        inputs = (part.B, part.x, None, None, None, None, None, torch.tensor([0]), ends)
        assert take_in_rounds(lambda *given: given[-1], *inputs) is ends
        return mamba_chunk_scan_combined(*args, **kwargs)

    with carried_out(plan):
        found = scanned(
            lambda *args, **kwargs: take_scanned(original, *args, **kwargs), part, [9], None
        )
    assert seen == [None]
    assert found.tracked is None
    assert plan.lacks(RECURRENT, LAYER)


# ---- rounds ----


def rounds(plan: PassPlan, before: int) -> list[tuple[list[int], list[int]]]:
    """What the scan's own function is asked for, call by call: rows and ends.

    What it gives for each has the number of its end, which is where it has to be found.
    """
    tokens = plan.starts[-1] + plan.rows[-1].tokens
    rows = [*range(before), *(row for row, _ in plan.places)]
    ends = [*(plan.starts[row] + 1 for row in range(before)), *plan.ends]
    calls = []

    def original(*inputs: Any) -> Tensor:
        *_, sequences, at = inputs
        calls.append((sequences.tolist(), at.tolist()))
        states: Tensor = at.float().view(1, -1, 1, 1, 1).expand(1, -1, 2, 3, 4)
        return states

    x = SimpleNamespace(shape=(1, tokens))
    with carried_out(plan):
        found = take_in_rounds(
            original, None, x, *(None,) * 5, torch.tensor(rows), torch.tensor(ends)
        )
    assert found.shape == (1, len(ends), 2, 3, 4)
    assert found[0, :, 1, 2, 3].tolist() == ends
    return calls


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("asked_before", [False, True])
def test_each_call_has_a_row_once_and_goes_forward(seed: int, asked_before: bool) -> None:
    some = SomePass.random(seed)
    plan = some.plan()
    calls = rounds(plan, len(some.rows) if asked_before else 0)
    for sequences, ends in calls:
        assert sequences == sorted(set(sequences))
        # Between two that are asked for the kernel runs from one's end to the next one's start.
        starts = [plan.starts[row] for row in sequences]
        assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    most = max(sum(place.row == row for place in plan.places) for row in range(len(some.rows)))
    assert len(calls) == most + asked_before
