"""Windows taken inside a pass are those of a prefill that ends there, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from sglang.srt.layers.attention.mamba import causal_conv1d
from sglang_marconi.cpu.conv1d import causal_conv1d_fn
from sglang_marconi.forward.layers import window
from sglang_marconi.forward.plan import PassPlan, Place, Row, carried_out
from sglang_marconi.forward.windows import take_gated_windows, take_windows
from support.passes import SomePass
from torch import Tensor

DIM, WIDTH, LAYER = 6, 4, 7
SEEDS = range(12)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def convolve(
    operation: Callable[..., Any],
    x: Tensor,
    states: Tensor,
    slots: Tensor,
    resumed: Tensor,
    bounds: Tensor,
) -> Tensor:
    """As SGLang's layers call it: ``x [tokens, dim]``, ``states [slots, dim, width - 1]``."""
    result: Tensor = operation(
        x.t(),
        normal(1, DIM, WIDTH),
        normal(2, DIM),
        query_start_loc=bounds,
        cache_indices=slots.int(),
        has_initial_state=resumed,
        conv_states=states,
        activation="silu",
        seq_lens_cpu=bounds.diff().tolist(),
    )
    return result


def planned(some: SomePass, pool: Tensor) -> PassPlan:
    plan = some.plan()
    plan.at_layer(LAYER, SimpleNamespace(conv=[pool]))
    return plan


def assert_taken(some: SomePass, x: Tensor, before: Tensor, pool: Tensor) -> None:
    """``pool`` and ``before``, as it was: ``[slots, dim, width - 1]``."""
    for at in some.prefixes():
        alone = before.clone()
        convolve(
            causal_conv1d_fn,
            x[at.begin : at.end],
            alone,
            some.live[at.row : at.row + 1],
            torch.tensor([at.resumes]),
            torch.tensor([0, at.end - at.begin]),
        )
        assert torch.equal(pool[at.slot], alone[some.live[at.row]])
    assert torch.equal(pool[some.untouched()], before[some.untouched()])


# What SGLang's operation calls in turn is hooked as well.
NESTED = partial(take_windows, causal_conv1d.causal_conv1d_fn)
OPERATIONS: dict[str, Callable[..., Any]] = {
    "alone": partial(take_windows, causal_conv1d_fn),
    "one through the other": NESTED,
}


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_conv1d, "_HAS_CONV1D_KERNEL", False)
    hooked = partial(take_windows, causal_conv1d_fn)
    monkeypatch.setattr(causal_conv1d, "_causal_conv1d_fn_triton", hooked)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("seed", SEEDS)
def test_windows_are_those_of_prefixes(seed: int, operation: str, channels_last: bool) -> None:
    some = SomePass.random(seed)
    x = normal(seed, some.tokens, DIM)
    before = normal(seed + 1, some.slots, DIM, WIDTH - 1)
    plain, pool = before.clone(), before.clone()
    wanted = convolve(causal_conv1d_fn, x, plain, some.live, some.resumed, some.bounds)
    if channels_last:
        # As KDA keeps them: what it convolves with is a view of them.
        pool = pool.transpose(1, 2).contiguous()
    states = pool.transpose(1, 2) if channels_last else pool
    plan = planned(some, pool)
    put = mock.Mock(wraps=plan.put)
    plan.put = put  # type: ignore[method-assign]
    with carried_out(plan):
        found = convolve(OPERATIONS[operation], x, states, some.live, some.resumed, some.bounds)
    put.assert_called_once()
    assert plan.missing(iter([(window(), LAYER)])) == []
    assert torch.equal(found, wanted)
    assert torch.equal(states[some.live], plain[some.live])
    assert_taken(some, x, before, states)


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_copy_of_the_states_and_into_another_type(seed: int) -> None:
    # Where the pool's layout does not suit a kernel, it is given those of the rows, in order.
    some = SomePass.random(seed)
    x = normal(seed, some.tokens, DIM).bfloat16().float()
    before = normal(seed + 1, some.slots, DIM, WIDTH - 1).bfloat16()
    pool, copy = before.clone(), before[some.live].float()
    with carried_out(planned(some, pool)):
        order = torch.arange(len(some.rows))
        convolve(OPERATIONS["alone"], x, copy, order, some.resumed, some.bounds)
    pool[some.live] = copy.bfloat16()
    assert_taken(some, x, before.float(), pool.float())


def gated(gate: Tensor, x: Tensor, states: Tensor, slots: Tensor, bounds: Tensor) -> None:
    take_gated_windows(gate, gate, x, gate, states, bounds, slots, None, 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_of_inputs_that_a_kernel_gates_itself(seed: int) -> None:
    some = SomePass.random(seed)
    x, gate = normal(seed, some.tokens, DIM), normal(seed + 2, some.tokens, DIM)
    before = normal(seed + 1, some.slots, DIM, WIDTH - 1)
    pool = before.clone()
    with carried_out(planned(some, pool)):
        gated(gate, x, pool, some.live, some.bounds)
    convolve(causal_conv1d_fn, gate * x, pool, some.live, some.resumed, some.bounds)
    assert_taken(some, gate * x, before, pool)


@pytest.mark.parametrize("padding", [0, 5])
def test_tokens_behind_the_pass_are_nothing_to_it(padding: int) -> None:
    some = SomePass.random(3)
    x = normal(3, some.tokens + padding, DIM)
    before = normal(4, some.slots, DIM, WIDTH - 1)
    pool = before.clone()
    with carried_out(planned(some, pool)):
        convolve(OPERATIONS["alone"], x, pool, some.live, some.resumed, some.bounds)
    assert_taken(some, x, before, pool)


@pytest.mark.parametrize("operation", [*OPERATIONS, "gated"])
def test_a_part_of_a_pass_leaves_nothing(operation: str) -> None:
    some = SomePass.of([Row(5, False), Row(9, False)], [Place(0, 3), Place(1, 8)])
    x, before = normal(3, 9, DIM), normal(4, some.slots, DIM, WIDTH - 1)
    pool = before.clone()
    plan = planned(some, pool)
    bounds = torch.tensor([0, 9])
    with carried_out(plan):
        if operation == "gated":
            gated(x, x, pool, some.live[1:], bounds)
        else:
            convolve(OPERATIONS[operation], x, pool, some.live[1:], some.resumed[1:], bounds)
    assert plan.lacks(window(), LAYER)
    assert torch.equal(pool[some.taken], before[some.taken])


def test_without_a_plan_the_operation_is_called_at_once() -> None:
    seen: list[Sequence[Any]] = []

    def original(*args: Any, **kwargs: Any) -> str:
        seen.append((args, kwargs))
        return "as it is"

    x = torch.zeros(DIM, 1)
    given = {"conv_states": x[None], "activation": None}
    assert take_windows(original, x, x, None, **given) == "as it is"
    assert seen == [((x, x, None), given)]
