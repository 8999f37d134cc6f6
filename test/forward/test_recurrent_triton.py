"""States taken from SGLang's own kernels, interpreted, are those taken from ours for a CPU.

Not of KDA, whose kernel for prompts is wrong when it is interpreted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sglang.kernels.ops.attention.linear.seg_la import seg_la_fwd as their_seg_la_fwd
from sglang_marconi.cpu import gdn, lightning
from sglang_marconi.forward.delta import take_gdn
from sglang_marconi.forward.jet import take_jet
from sglang_marconi.forward.lightning import take_lightning
from sglang_marconi.forward.plan import Place, Row
from support import delta_inputs, lightning_inputs
from support.delta_reference import largest_error
from support.recurrent_passes import CLOSE, Operation, Planned, take_beside_nothing
from support.sglang_kernels import make_interpretable
from torch import Tensor

# At the first token, on and beside edges of chunks and blocks, before the last; rows without any.
PLANNED = Planned(
    [Row(70, True), Row(3, True), Row(67, False), Row(1, True)],
    [
        *(Place(0, tokens) for tokens in (1, 64, 69)),
        *(Place(2, tokens) for tokens in (40, 64, 66)),
    ],
)
TOKENS = int(PLANNED.bounds[-1])


@pytest.fixture(scope="module", autouse=True)
def _interpretable() -> None:
    make_interpretable()


def compare(theirs: Operation, ours: Operation, inputs: list[Tensor], sizes: Any) -> None:
    """Ours are compared with prefills that end at the places, in the other files of the folder."""
    _, states = take_beside_nothing(theirs, inputs, sizes, PLANNED)
    _, wanted = take_beside_nothing(ours, inputs, sizes, PLANNED, changes=CLOSE)
    for state, want, place in zip(states, wanted, PLANNED.places, strict=True):
        assert largest_error(state, want) < CLOSE, place


def test_gdn(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.kernels.ops.attention.fla.chunk import ChunkGatedDeltaRuleFunction
    from sglang.srt.layers.attention.linear.kernels import gdn_triton

    # Not through `chunk_gated_delta_rule`, which refuses float32.
    def theirs(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, **others: Any) -> Any:
        output, states = ChunkGatedDeltaRuleFunction.apply(
            q, k, v, g, beta, k.shape[-1] ** -0.5, others["initial_state"],
            others["initial_state_indices"], others["cu_seqlens"], True, True,
        )  # fmt: skip
        return output, None, states

    class Dispatcher(gdn_triton.TritonGDNKernel):  # type: ignore[misc]
        extend_uses_state_checkpoints = False

    def by(chunked: Any) -> Operation:
        def run(inputs: Sequence[Tensor], pool: Tensor, planned: Planned) -> Tensor:
            monkeypatch.setattr(gdn_triton, "chunk_gated_delta_rule", chunked)
            output: Tensor
            output, _, _ = take_gdn(
                Dispatcher.extend,
                Dispatcher(),
                *(each[None] for each in inputs),
                ssm_states=pool,
                cache_indices=planned.slots,
                query_start_loc=planned.bounds,
            )
            return output

        return run

    inputs = delta_inputs.gdn_inputs(TOKENS)
    compare(by(theirs), by(gdn.chunk_gated_delta_rule), inputs, delta_inputs.SIZES)


def test_lightning() -> None:
    def by(operation: Any) -> Operation:
        def run(inputs: Sequence[Tensor], pool: Tensor, planned: Planned) -> Tensor:
            meta = lightning_inputs.meta_of(planned)
            slopes = lightning_inputs.SLOPES[1:3]
            return take_lightning(operation, *inputs, pool, slopes, meta)

        return run

    inputs = [each[:, 1:3].contiguous() for each in lightning_inputs.vectors(TOKENS)]
    sizes = (2, *lightning_inputs.SIZES[1:])
    compare(by(their_seg_la_fwd), by(lightning.seg_la_fwd), inputs, sizes)


def test_jet() -> None:
    """Stopped at the places, the kernel gives bitwise what it gives at once."""
    from sglang.kernels.ops.attention.fla import fused_recurrent

    def by(module: Any) -> Operation:
        def run(inputs: Sequence[Tensor], pool: Tensor, planned: Planned) -> Tensor:
            return take_jet(
                module.fused_recurrent_gated_delta_rule_update,
                *(each[None] for each in inputs),
                initial_state_source=pool,
                initial_state_indices=planned.slots,
                cu_seqlens=planned.bounds,
                use_qk_l2norm_in_kernel=True,
            )

        return run

    inputs = delta_inputs.gdn_inputs(TOKENS)
    compare(by(fused_recurrent), by(gdn), inputs, delta_inputs.SIZES)
