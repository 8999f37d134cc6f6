"""States of GDN and KDA inside a pass are those of prefills that end there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sglang_marconi.cpu.gdn import chunk_gated_delta_rule
from sglang_marconi.cpu.kda import chunk_kda
from sglang_marconi.forward.delta import take_gdn, take_kda
from sglang_marconi.forward.layers import RECURRENT
from sglang_marconi.forward.plan import PassPlan, Place, Row, carried_out
from support.delta_inputs import SIZES, gdn_inputs, kda_inputs, layer_of_kda
from support.delta_reference import largest_error
from support.recurrent_passes import MANY, Planned, alone, check, passes, take
from torch import Tensor


class Dispatcher:
    """What the hooks see of SGLang's dispatchers, and the calls of its kernel.

    Its kernels are those of this package for a CPU. They return the states on a grid as Triton's
    do, as FlashInfer's does for GDN, or not at all.
    """

    def __init__(self, returns: str) -> None:
        self.returns = returns
        self.extend_uses_state_checkpoints = returns == "checkpoints"
        self.triton_kernel = self
        self.tokens: list[int] = []

    def effective_extend_kernel(self, _bound: float | None, _tokens: int, _rows: int) -> Any:
        return self if self.returns == "chunks" else None

    def gdn(
        self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, **options: Any
    ) -> tuple[Tensor, None, Tensor | None]:
        self.tokens.append(q.shape[1])
        bounds = options["query_start_loc"]
        output, _, states = chunk_gated_delta_rule(
            q,
            k,
            v,
            g,
            beta,
            initial_state=options["ssm_states"],
            initial_state_indices=options["cache_indices"],
            cu_seqlens=bounds,
            use_qk_l2norm_in_kernel=True,
        )
        if self.returns == "chunks":
            return output, None, states
        if not options.get("num_state_checkpoints"):
            return output, None, None
        # Behind each 64 tokens: those before the next ones, or the row's last state.
        assert options["state_checkpoint_every_n_tokens"] == 64
        lengths, chunks = bounds.diff(), iter(states[0])
        found = []
        for row, length in enumerate(lengths.tolist()):
            of_row = [next(chunks) for _ in range(0, length, 64)]
            if length % 64 == 0:
                of_row.append(options["ssm_states"][options["cache_indices"][row]])
            found += of_row[1:]
        firsts = options["state_checkpoint_cu_starts"]
        assert torch.equal(firsts.diff(), lengths // 64)
        assert options["num_state_checkpoints"] == len(found)
        return output, None, torch.stack(found)[None]

    def kda(
        self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, **options: Any
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        self.tokens.append(q.shape[1])
        names = ("A_log", "dt_bias", "lower_bound", "beta_is_raw", "track_state", "track_chunk_idx")
        result = chunk_kda(
            q,
            k,
            v,
            g,
            beta,
            initial_state=options["ssm_states"],
            initial_state_indices=options["cache_indices"],
            cu_seqlens=options["query_start_loc"],
            use_qk_l2norm_in_kernel=True,
            output_intermediate_states=options.get("return_intermediate_states", False),
            **{name: options[name] for name in names if name in options},
        )
        assert self.returns == "chunks" or isinstance(result, Tensor)
        return result


def gdn(dispatcher: Dispatcher, inputs: Sequence[Tensor], pool: Tensor, planned: Planned) -> Any:
    return take_gdn(
        Dispatcher.gdn,
        dispatcher,
        *(each[None] for each in inputs),
        ssm_states=pool,
        cache_indices=planned.slots,
        query_start_loc=planned.bounds,
    )


def kda(
    dispatcher: Dispatcher,
    inputs: Sequence[Tensor],
    pool: Tensor,
    planned: Planned,
    lower_bound: float | None = None,
    **options: Any,
) -> Any:
    return take_kda(
        Dispatcher.kda,
        dispatcher,
        *(each[None] for each in inputs),
        ssm_states=pool,
        cache_indices=planned.slots,
        query_start_loc=planned.bounds,
        lower_bound=lower_bound,
        beta_is_raw=True,
        **layer_of_kda(),
        **options,
    )


@pytest.mark.parametrize("returns", ["chunks", "checkpoints", "nothing"])
@settings(max_examples=12)
@example(planned=MANY, seed=0)
@given(planned=passes(), seed=st.integers(0, 1000))
def test_gdn(returns: str, planned: Planned, seed: int) -> None:
    dispatcher = Dispatcher(returns)

    def run(inputs: Sequence[Tensor], pool: Tensor, planned: Planned) -> Tensor:
        output, last, on_grid = gdn(dispatcher, inputs, pool, planned)
        # SGLang has not asked for checkpoints.
        assert last is None and (on_grid is None) == (returns != "chunks")
        return output

    check(run, gdn_inputs(int(planned.bounds[-1]), seed), SIZES, planned)


@pytest.mark.parametrize("lower_bound", [None, -5.0])
@pytest.mark.parametrize("returns", ["chunks", "nothing"])
@settings(max_examples=8)
@example(planned=MANY, seed=0)
@given(planned=passes(), seed=st.integers(0, 1000))
def test_kda(returns: str, lower_bound: float | None, planned: Planned, seed: int) -> None:
    dispatcher = Dispatcher(returns)

    def run(inputs: Sequence[Tensor], pool: Tensor, planned: Planned) -> Tensor:
        output = kda(dispatcher, inputs, pool, planned, lower_bound)
        assert isinstance(output, Tensor)
        return output

    check(run, kda_inputs(int(planned.bounds[-1]), seed), SIZES, planned)


@pytest.mark.parametrize("family", ["gdn", "kda"])
def test_what_remains_is_one_call_of_few_tokens(family: str) -> None:
    inputs = (gdn_inputs if family == "gdn" else kda_inputs)(496)
    for returns, calls in (
        ("chunks", [496, 1 + 63 + 1 + 1 + 31 + 63 + 8 + 63 + 43]),
        ("nothing", [496, 1 + 31 + 128, 62 + 32 + 72, 1 + 55, 1 + 44, 64]),
    ):
        dispatcher = Dispatcher(returns)

        def run(inputs: Sequence[Tensor], pool: Tensor, planned: Planned) -> Any:
            return (gdn if family == "gdn" else kda)(dispatcher, inputs, pool, planned)  # noqa: B023

        take(run, inputs, torch.randn(16, *SIZES), MANY)
        assert dispatcher.tokens == calls


def test_places_on_the_grid_need_no_other_call() -> None:
    planned = Planned([Row(130, True), Row(70, False)], [Place(0, 64), Place(0, 128), Place(1, 64)])
    dispatcher = Dispatcher("chunks")
    take(
        lambda inputs, pool, planned: gdn(dispatcher, inputs, pool, planned)[0],
        gdn_inputs(200),
        torch.randn(5, *SIZES),
        planned,
    )
    assert dispatcher.tokens == [200]


def test_kda_keeps_what_sglang_tracks() -> None:
    """It asks for states on the grid and for one of a row in float32, and has both."""
    inputs = kda_inputs(496)
    before = torch.randn(16, *SIZES)
    chunks = torch.tensor([1, -1, 4, -1, -1])

    def run(inputs: Sequence[Tensor], pool: Tensor, planned: Planned) -> Any:
        tracked = torch.full((len(planned.rows), *SIZES), 7.0)
        output, on_grid = kda(
            Dispatcher("chunks"),
            inputs,
            pool,
            planned,
            return_intermediate_states=True,
            track_state=tracked,
            track_chunk_idx=chunks[: len(planned.rows)],
        )
        return torch.cat([output.flatten(), on_grid.flatten(), tracked.flatten()])

    check(run, inputs, SIZES, MANY)
    pool = before.clone()
    output, _ = take(run, inputs, pool, MANY)
    assert torch.equal(output, run(inputs, before.clone(), MANY))


def test_kda_in_bfloat16_is_exact_at_one_place_of_a_row() -> None:
    """Where the state on the grid is rounded to the precision of the keys."""
    planned = Planned(
        [Row(300, True), Row(200, True)], [Place(0, 200), Place(0, 290), Place(1, 190)]
    )
    inputs = kda_inputs(500, dtype=torch.bfloat16)
    before = torch.randn(5, *SIZES)

    def run(inputs: Sequence[Tensor], pool: Tensor, planned: Planned) -> Tensor:
        return kda(Dispatcher("chunks"), inputs, pool, planned)

    _, states = take(run, inputs, before.clone(), planned)
    errors = [
        largest_error(state, alone(run, inputs, before, planned, place))
        for state, place in zip(states, planned.places, strict=True)
    ]
    assert errors[0] < 1e-5 and errors[2] < 1e-5
    assert 1e-5 < errors[1] < 2**-8


def test_prompts_of_several_items_are_left_alone() -> None:
    """Their pieces are not a plan's rows, and a state of theirs would be wrong."""
    plan = PassPlan([Row(3, False)], [Place(0, 2)], [torch.tensor([1])])
    plan.at_layer(0, None)
    pool, inputs = torch.randn(2, *SIZES), gdn_inputs(3)
    with carried_out(plan):
        take_gdn(
            Dispatcher.gdn,
            Dispatcher("chunks"),
            *(each[None] for each in inputs),
            ssm_states=pool,
            cache_indices=torch.tensor([0]),
            query_start_loc=torch.tensor([0, 3]),
            inplace_update=False,
        )
    assert plan.lacks(RECURRENT, 0)
