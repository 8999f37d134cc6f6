"""The operations of GDN, KDA and JetBlocks against SGLang's own kernels, which are interpreted.

In float16 where precision is a half, since the interpreter cuts bfloat16 off instead of rounding.
"""

import pytest
import torch
from sglang_marconi.cpu import gdn, kda
from support.delta_reference import DeltaInput, largest_error
from support.sglang_kernels import make_interpretable
from torch import Tensor

HEADS, VALUE_HEADS, KEY_DIM, VALUE_DIM = 1, 2, 16, 8
SIZES = (HEADS, VALUE_HEADS, KEY_DIM, VALUE_DIM)
SLOTS = torch.tensor([2, -1, 3], dtype=torch.int32)
DTYPES = [torch.float32, torch.float16]
CLOSE = {torch.float32: 2e-6, torch.float16: 1e-3}


@pytest.fixture(scope="module", autouse=True)
def _interpretable() -> None:
    make_interpretable()


def pools() -> tuple[Tensor, Tensor]:
    """For their kernel and for ours."""
    torch.manual_seed(5)
    pool = torch.randn(5, VALUE_HEADS, VALUE_DIM, KEY_DIM)
    return pool, pool.clone()


def gates(tokens: int, channels: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``A_log, a, b, dt_bias``, far from zero on both sides."""
    torch.manual_seed(6)
    features = VALUE_HEADS * (KEY_DIM if channels else 1)
    A_log = torch.empty(VALUE_HEADS).uniform_(0.1, 16).log()
    a, b = torch.randn(tokens, features) * 4, torch.randn(tokens, VALUE_HEADS) * 3
    return A_log, a, b, torch.randn(features)


def packed(inputs: DeltaInput) -> Tensor:
    return torch.cat([t.flatten(2)[0] for t in (inputs.q, inputs.k, inputs.v)], 1)


def test_chunks_of_a_prompt() -> None:
    """Both see a sequence of two chunks, one without a state, one that ends with its chunk."""
    from sglang.kernels.ops.attention.fla.chunk import ChunkGatedDeltaRuleFunction

    inputs = DeltaInput.random(70 + 3 + 64, False, *SIZES)
    bounds = torch.tensor([0, 70, 73, 137], dtype=torch.int32)
    theirs, ours = pools()
    # Not through `chunk_gated_delta_rule`, which refuses float32.
    wanted, wanted_states = ChunkGatedDeltaRuleFunction.apply(
        *vars(inputs).values(), KEY_DIM**-0.5, theirs, SLOTS, bounds, True, True
    )
    output, _, states = gdn.chunk_gated_delta_rule(
        **vars(inputs), initial_state=ours, initial_state_indices=SLOTS, cu_seqlens=bounds,
        use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    assert states.dtype == wanted_states.dtype
    assert largest_error(output, wanted) < 3e-6  # theirs is off by 1e-6, ours by 1e-7
    assert largest_error(states, wanted_states) < 3e-6
    assert largest_error(ours, theirs) < 3e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_gdn_decode_step(dtype: torch.dtype) -> None:
    from sglang.kernels.ops.attention.fla import fused_recurrent

    mixed = packed(DeltaInput.random(3, False, *SIZES, dtype=dtype))
    A_log, a, b, dt_bias = gates(3, channels=False)
    a, b = a.to(dtype), b.to(dtype)
    theirs, ours = pools()
    wanted, output = (torch.empty(3, 1, VALUE_HEADS, VALUE_DIM, dtype=dtype) for _ in range(2))
    name = "fused_recurrent_gated_delta_rule_packed_decode"
    for module, pool, out in ((fused_recurrent, theirs, wanted), (gdn, ours, output)):
        step = getattr(module, name)
        step(mixed, a, b, A_log, dt_bias, KEY_DIM**-0.5, pool, out, SLOTS, True)
    assert largest_error(output, wanted) < CLOSE[dtype]
    assert largest_error(ours, theirs) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lower_bound", [None, -5.0])
def test_kda_decode_step(lower_bound: float | None, dtype: torch.dtype) -> None:
    from sglang.kernels.ops.attention.fla import fused_recurrent

    mixed = packed(DeltaInput.random(3, True, *SIZES, dtype=dtype))
    A_log, a, b, dt_bias = gates(3, channels=True)
    a, b = a.to(dtype), b.to(dtype)
    theirs, ours = pools()
    wanted, output = (torch.empty(3, 1, VALUE_HEADS, VALUE_DIM, dtype=dtype) for _ in range(2))
    for module, pool, out in ((fused_recurrent, theirs, wanted), (kda, ours, output)):
        module.fused_recurrent_kda_packed_decode(
            mixed, a, b, A_log, dt_bias, KEY_DIM**-0.5, pool, out, SLOTS, True, lower_bound
        )
    assert largest_error(output, wanted) < CLOSE[dtype]
    assert largest_error(ours, theirs) < 1e-6


@pytest.mark.parametrize("lower_bound", [None, -5.0])
def test_kda_prompt_is_repeated_decode_steps(lower_bound: float | None) -> None:
    """Interpreted, SGLang's own kernel for prompts is wrong, for decode steps it is not."""
    from sglang.kernels.ops.attention.fla.fused_recurrent import fused_recurrent_kda_packed_decode

    lengths, tokens = (66, 3), 69
    inputs = DeltaInput.random(tokens, True, *SIZES)
    A_log, a, b, dt_bias = gates(tokens, channels=True)
    theirs, ours = pools()
    wanted, mixed = torch.empty(tokens, 1, VALUE_HEADS, VALUE_DIM), packed(inputs)
    entering = torch.stack([theirs[2], theirs[2], theirs[0]])
    for t in range(lengths[0]):
        if t == 64:
            entering[1] = theirs[2]
        rows = torch.tensor([t] if t >= lengths[1] else [t, lengths[0] + t])
        out = torch.empty(len(rows), 1, VALUE_HEADS, VALUE_DIM)
        slots = torch.tensor([2, 0], dtype=torch.int32)[: len(rows)]
        fused_recurrent_kda_packed_decode(
            mixed[rows], a[rows], b[rows], A_log, dt_bias, KEY_DIM**-0.5, theirs, out, slots,
            True, lower_bound,
        )  # fmt: skip
        wanted[rows] = out
    track = torch.full((2, *ours.shape[1:]), 7.0)
    output, states = kda.chunk_kda(
        inputs.q, inputs.k, inputs.v, a.view(1, tokens, VALUE_HEADS, KEY_DIM), b[None],
        initial_state=ours, initial_state_indices=torch.tensor([2, 0], dtype=torch.int32),
        use_qk_l2norm_in_kernel=True, cu_seqlens=torch.tensor([0, 66, 69], dtype=torch.int32),
        A_log=A_log, dt_bias=dt_bias, lower_bound=lower_bound, output_intermediate_states=True,
        track_state=track, track_chunk_idx=torch.tensor([1, -1], dtype=torch.int32),
        beta_is_raw=True,
    )  # fmt: skip
    assert largest_error(output[0], wanted[:, 0]) < 2e-6
    assert largest_error(ours, theirs) < 2e-6
    assert largest_error(states[0], entering) < 2e-6
    assert torch.equal(track[0], states[0, 1]) and (track[1] == 7).all()


@pytest.mark.parametrize(("channels", "lower_bound"), [(True, None), (True, -5.0), (False, None)])
@pytest.mark.parametrize("bounds", [[0, 1, 2, 3], [0, 3, 4, 6]])
def test_decode_steps_with_their_gates(
    channels: bool, lower_bound: float | None, bounds: list[int]
) -> None:
    from sglang.kernels.ops.attention.linear import fused_sigmoid_gating_recurrent

    inputs = DeltaInput.random(bounds[-1], channels, *SIZES)
    A_log, a, b, dt_bias = gates(bounds[-1], channels)
    theirs, ours = pools()
    wanted, output = (
        module.fused_sigmoid_gating_delta_rule_update(
            A_log, a, dt_bias, 1.0, 20.0, inputs.q, inputs.k, inputs.v, b, pool, SLOTS,
            use_qk_l2norm_in_kernel=True, cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
            is_kda=channels, lower_bound=lower_bound,
        )
        for module, pool in ((fused_sigmoid_gating_recurrent, theirs), (kda, ours))
    )  # fmt: skip
    assert largest_error(output, wanted) < 1e-6
    assert largest_error(ours, theirs) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bounds", [[0, 1, 2, 3], [0, 3, 4, 6]])
def test_jet_block(dtype: torch.dtype, bounds: list[int]) -> None:
    from sglang.kernels.ops.attention.fla import fused_recurrent

    inputs = DeltaInput.random(bounds[-1], False, *SIZES, dtype=dtype)
    theirs, ours = pools()
    wanted, output = (
        module.fused_recurrent_gated_delta_rule_update(
            **vars(inputs), initial_state_source=pool, initial_state_indices=SLOTS,
            cu_seqlens=torch.tensor(bounds, dtype=torch.int32), use_qk_l2norm_in_kernel=True,
        )
        for module, pool in ((fused_recurrent, theirs), (gdn, ours))
    )  # fmt: skip
    assert output.dtype == wanted.dtype
    assert largest_error(output, wanted) < CLOSE[dtype]
    assert largest_error(ours, theirs) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_gates_of_a_prompt(dtype: torch.dtype) -> None:
    from sglang.kernels.ops.attention.linear import fused_gdn_gating

    A_log, a, b, dt_bias = gates(7, channels=False)
    given = (A_log, (a * 5).to(dtype), b.to(dtype), dt_bias)
    for ours, theirs in zip(
        gdn.fused_gdn_gating(*given), fused_gdn_gating.fused_gdn_gating(*given), strict=True
    ):
        assert ours.dtype == theirs.dtype
        assert largest_error(ours, theirs) < 1e-6


@pytest.mark.parametrize(
    "name", ["fused_qkvzba_split_reshape_cat", "fused_qkvzba_split_reshape_cat_contiguous"]
)
def test_projections_come_apart(name: str) -> None:
    from sglang.kernels.ops.attention import triton_gdn_fused_proj

    torch.manual_seed(7)
    features = 2 * 2 * KEY_DIM + 2 * 4 * VALUE_DIM
    given = (torch.randn(3, features), torch.randn(3, 8), 2, 4, KEY_DIM, VALUE_DIM)
    wanted = getattr(triton_gdn_fused_proj, name)(*given)
    for ours, theirs in zip(getattr(gdn, name)(*given), wanted, strict=True):
        assert torch.equal(ours, theirs)
