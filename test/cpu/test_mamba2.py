"""The scan and the decode step against mamba-ssm's reference, token by token."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sglang_marconi.cpu.mamba2 import mamba_chunk_scan_combined, selective_state_update
from support.mamba_reference import ScanInput, scan_one, selective_state_update_ref
from torch import Tensor
from torch.nn import functional as F

CLOSE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def bounds_of(lengths: Sequence[int]) -> Tensor:
    return F.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0), (1, 0)).int()


def scan(
    inputs: ScanInput,
    lengths: Sequence[int],
    initial: Tensor | None = None,
    gate: bool = False,
    **options: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Output ``(tokens, heads, headdim)``, intermediate, varlen and tracked states."""
    out = torch.full_like(inputs.x, float("nan"))
    settings = {"chunk_size": 8, "state_dtype": torch.float32} | options
    intermediate, varlen, track = mamba_chunk_scan_combined(
        inputs.x,
        inputs.dt,
        inputs.A,
        inputs.B,
        inputs.C,
        D=inputs.D,
        z=inputs.z if gate else None,
        dt_bias=inputs.dt_bias,
        dt_softplus=True,
        initial_states=initial,
        cu_seqlens=bounds_of(lengths),
        return_varlen_states=True,
        return_track_states=True,
        out=out,
        **settings,
    )
    return out[0], intermediate, varlen, track


def assert_close(ours: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
    torch.testing.assert_close(ours.double(), wanted.double(), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize(("heads", "headdim", "groups", "dstate"), [(4, 6, 2, 5), (3, 7, 1, 9)])
def test_packed_scan_is_the_reference_on_each_sequence(
    dtype: torch.dtype,
    resumed: bool,
    gate: bool,
    heads: int,
    headdim: int,
    groups: int,
    dstate: int,
) -> None:
    lengths = [1, 130, 64, 0, 5, 63, 65, 1]
    inputs = ScanInput.random(sum(lengths), heads, headdim, groups, dstate, dtype=dtype)
    initial = torch.randn(len(lengths), heads, headdim, dstate) if resumed else None
    out, _, varlen, _ = scan(inputs, lengths, initial, gate, chunk_size=32)
    edges = bounds_of(lengths).tolist()
    for i, (begin, end) in enumerate(pairwise(edges)):
        start = None if initial is None else initial[i]
        wanted, last = scan_one(inputs.part(begin, end), start, gate)
        assert_close(out[begin:end], wanted, CLOSE[dtype])
        assert_close(varlen[i], last)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=6).filter(lambda ls: sum(ls) > 0),
    chunk_size=st.sampled_from([1, 4, 16, 48, 64, 256]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_state_at_any_cut_is_that_of_the_prefix(
    lengths: list[int], chunk_size: int, seed: int, data: st.DataObject
) -> None:
    inputs = ScanInput.random(sum(lengths), seed=seed)
    initial = torch.randn(len(lengths), 4, 6, 5, generator=torch.Generator().manual_seed(seed + 1))
    edges = bounds_of(lengths).tolist()
    track_seq = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=3))
    track_end = [data.draw(st.integers(edges[i], edges[i + 1])) for i in track_seq]
    _, intermediate, varlen, track = scan(
        inputs,
        lengths,
        initial,
        chunk_size=chunk_size,
        track_seq_idx=torch.tensor(track_seq, dtype=torch.long),
        track_end_locs=torch.tensor(track_end, dtype=torch.long),
    )

    def prefix(sequence: int, end: int) -> Tensor:
        return scan_one(inputs.part(edges[sequence], end), initial[sequence])[1]

    for i in range(len(lengths)):
        assert_close(varlen[i], prefix(i, edges[i + 1]))
    if not track_seq:
        assert track is None
    for n, (i, end) in enumerate(zip(track_seq, track_end, strict=True)):
        assert track is not None
        assert_close(track[0, n], prefix(i, end))
    assert intermediate.shape[:2] == (1, -(-sum(lengths) // chunk_size))
    assert torch.equal(intermediate[0, 0], initial[0])
    for c in range(1, intermediate.shape[1]):
        end = c * chunk_size
        owner = next(i for i in range(len(lengths)) if edges[i] < end <= edges[i + 1])
        assert_close(intermediate[0, c], prefix(owner, end))


@pytest.mark.parametrize("cut", [1, 63, 64, 65, 100, 199])
def test_resumed_in_two_parts_equals_the_whole(cut: int) -> None:
    inputs = ScanInput.random(200)
    whole, _, last, _ = scan(inputs, [200], chunk_size=256)
    first, _, state, _ = scan(inputs.part(0, cut), [cut], chunk_size=256)
    second, _, end, _ = scan(inputs.part(cut, 200), [200 - cut], state, chunk_size=256)
    assert_close(torch.cat([first, second]), whole, 3e-6)
    assert_close(end, last, 3e-6)


def test_repeated_decode_steps_are_the_scan() -> None:
    inputs = ScanInput.random(40)
    whole, _, last, _ = scan(inputs, [40])
    pool = torch.zeros(3, 4, 6, 5)
    for t in range(40):
        out = torch.empty(1, 4, 6)
        update(inputs, t, pool, out, torch.tensor([2], dtype=torch.int32))
        assert_close(out[0], whole[t])
    assert_close(pool[2], last[0])
    assert not pool[:2].any()


def update(inputs: ScanInput, t: int, pool: Tensor, out: Tensor, slots: Tensor) -> None:
    """One decode step the way SGLang's mixer calls it: per-head tensors expanded."""
    headdim = inputs.x.shape[3]
    selective_state_update(
        pool,
        inputs.x[:, t],
        inputs.dt[:, t, :, None].expand(-1, -1, headdim),
        inputs.A[:, None, None].expand(-1, headdim, inputs.B.shape[-1]),
        inputs.B[:, t],
        inputs.C[:, t],
        inputs.D[:, None].expand(-1, headdim),
        z=None,
        dt_bias=inputs.dt_bias[:, None].expand(-1, headdim),
        dt_softplus=True,
        state_batch_indices=slots,
        out=out,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_decode_step_is_the_reference(dtype: torch.dtype, tied: bool) -> None:
    torch.manual_seed(0)
    batch, heads, headdim, groups, dstate = 5, 6, 7, 3, 9
    pool = torch.randn(8, heads, headdim, dstate)
    slots = torch.tensor([3, -1, 0, 7, 5], dtype=torch.int32)
    A, dt = -torch.rand(heads, headdim, dstate), torch.randn(batch, heads, headdim)
    dt_bias = torch.randn(heads, headdim)
    if tied:
        A = A[:, :1, :1].expand(-1, headdim, dstate)
        dt, dt_bias = dt[..., :1].expand(-1, -1, headdim), dt_bias[:, :1].expand(-1, headdim)
    x, z = (torch.randn(batch, heads, headdim).to(dtype) for _ in range(2))
    B, C = (torch.randn(batch, groups, dstate).to(dtype) for _ in range(2))
    D = torch.randn(heads, headdim)
    held = pool[slots.long()]
    held[1] = 0
    wanted = selective_state_update_ref(
        held, x.float(), dt, A, B.float(), C.float(), D, z.float(), dt_bias, dt_softplus=True
    )
    before, out = pool.clone(), torch.empty_like(x)
    selective_state_update(
        pool, x, dt, A, B, C, D, z, dt_bias, True, state_batch_indices=slots, out=out
    )
    assert_close(out, wanted, CLOSE[dtype])
    for row in (0, 2, 3, 4):
        assert_close(pool[slots[row]], held[row])
    untouched = [1, 2, 4, 6]
    assert torch.equal(pool[untouched], before[untouched])


def test_several_decode_steps_in_one_call_and_no_write_back() -> None:
    inputs = ScanInput.random(4)
    whole, *_ = scan(inputs, [4])
    pool, out = torch.zeros(1, 4, 6, 5), torch.empty_like(inputs.x)
    selective_state_update(
        pool,
        inputs.x,
        inputs.dt[..., None].expand(-1, -1, -1, 6),
        inputs.A[:, None, None].expand(-1, 6, 5),
        inputs.B,
        inputs.C,
        inputs.D[:, None].expand(-1, 6),
        dt_bias=inputs.dt_bias[:, None].expand(-1, 6),
        dt_softplus=True,
        out=out,
        disable_state_update=True,
    )
    assert_close(out[0], whole)
    assert not pool.any()


def test_strong_and_weak_decay_in_one_chunk_neither_overflow_nor_lose_digits() -> None:
    inputs = ScanInput.random(128, heads=2, groups=1)
    steps = torch.full_like(inputs.dt, -6.0)
    steps[:, :8] = 120.0
    inputs = ScanInput(
        x=inputs.x, dt=steps, A=torch.tensor([-30.0, -0.01]), B=inputs.B, C=inputs.C, D=inputs.D,
        z=inputs.z, dt_bias=torch.zeros(2),
    )  # fmt: skip
    out, _, varlen, _ = scan(inputs, [128], chunk_size=256)
    wanted, last = scan_one(inputs)
    assert torch.isfinite(out).all()
    for head in range(2):
        assert_close(out[:, head], wanted[:, head], 1e-5)
        assert_close(varlen[0, head], last[head], 1e-5)


def test_a_sequence_full_of_nan_leaves_its_neighbours_alone() -> None:
    lengths = [10, 7, 20]
    inputs = ScanInput.random(37)
    clean, _, states, _ = scan(inputs, lengths)
    inputs.x[:, 10:17] = float("nan")
    inputs.B[:, 10:17] = float("nan")
    dirty, _, dirty_states, _ = scan(inputs, lengths)
    for part in (slice(0, 10), slice(17, 37)):
        assert torch.equal(clean[part], dirty[part])
    assert torch.equal(states[::2], dirty_states[::2])
    assert dirty[10:17].isnan().all()


def test_limits_of_the_step_size_and_rows_of_a_plain_batch() -> None:
    packed = ScanInput.random(60)
    rows = {n: getattr(packed, n).view(3, 20, *getattr(packed, n).shape[2:]) for n in "xBC"}
    dt = packed.dt.view(3, 20, -1)
    out = torch.empty_like(rows["x"])
    states, final = mamba_chunk_scan_combined(
        rows["x"], dt, packed.A, rows["B"], rows["C"], 8, D=packed.D, dt_limit=(0.1, 0.5), out=out,
        return_final_states=True, return_intermediate_states=True, state_dtype=torch.float32,
    )  # fmt: skip
    assert states.shape == (3, 3, 4, 6, 5)
    # A step size inside the limits needs no softplus: undo the reference's.
    step = dt.clamp(0.1, 0.5).double()
    undone = torch.log(torch.expm1(step)).float()
    for i in range(3):
        one = ScanInput(
            rows["x"][i : i + 1], undone[i : i + 1], packed.A, rows["B"][i : i + 1],
            rows["C"][i : i + 1], packed.D, packed.z, torch.zeros(4),
        )  # fmt: skip
        wanted, last = scan_one(one)
        assert_close(out[i], wanted)
        assert_close(final[i], last)
        for c in (1, 2):
            assert_close(states[i, c], scan_one(ScanInput(
                one.x[:, : 8 * c], one.dt[:, : 8 * c], one.A, one.B[:, : 8 * c],
                one.C[:, : 8 * c], one.D, one.z, one.dt_bias,
            ))[1])  # fmt: skip


def test_what_cannot_be_done_is_refused() -> None:
    inputs = ScanInput.random(4)
    common = (inputs.x, inputs.dt, inputs.A, inputs.B, inputs.C, 8)
    with pytest.raises(ValueError, match="out"):
        mamba_chunk_scan_combined(*common)
    with pytest.raises(ValueError, match="cu_seqlens"):
        mamba_chunk_scan_combined(*common, out=inputs.x, return_varlen_states=True)
    with pytest.raises(ValueError, match="cover"):
        scan(inputs, [3])
    with pytest.raises(NotImplementedError):
        selective_state_update(
            *(torch.zeros(1, 1, 1),) * 6, out=inputs.x, enable_stochastic_rounding=True
        )
