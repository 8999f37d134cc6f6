"""Mamba2's two state-space operations on a CPU, under the signatures SGLang calls them with."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .speculation import refuse_speculation
from .ssd import PackedScan, scan_packed, states_inside

Scanned = None | Tensor | tuple[Tensor, ...] | tuple[Tensor, Tensor, Tensor | None]


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    chunk_offsets: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    out: Tensor | None = None,
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    return_intermediate_states: bool = False,
    state_dtype: torch.dtype | None = None,
    return_track_states: bool = False,
    track_seq_idx: Tensor | None = None,
    track_end_locs: Tensor | None = None,
) -> Scanned:
    """The Mamba2 layer's recurrence over a prompt or a packed batch of prompts.

    Formulas: arXiv 2405.21060, section 6 (the chunked algorithm) and section 7.1 (``D``, gate,
    step sizes); see :mod:`.ssd` for how they are evaluated.

    Args:
        x: ``(batch, seqlen, nheads, headdim)``. With ``return_varlen_states`` the batch is 1 and
            the sequences lie end to end along ``seqlen``.
        dt: ``(batch, seqlen, nheads)``, before bias, softplus and limits.
        A: ``(nheads,)``.
        B, C: ``(batch, seqlen, ngroups, dstate)``.
        chunk_size: the spacing of the states returned as intermediate ones.
        D: ``(nheads,)`` or ``(nheads, headdim)``; ``D * x`` is added to the output.
        z: like ``x``; the output is multiplied by ``silu(z)``.
        dt_bias: ``(nheads,)``.
        initial_states: ``(sequences, nheads, headdim, dstate)``.
        seq_idx, chunk_indices, chunk_offsets: what the packed layout looks like to a kernel that
            works on a fixed grid; ``cu_seqlens`` says the same and is what is used here.
        cu_seqlens: ``(sequences + 1,)``, where each sequence begins; needed with, and only used
            with, ``return_varlen_states``.
        out: ``(batch, seqlen, nheads, headdim)``, receives the output, in its own dtype.
        state_dtype: dtype of the returned states, that of ``C`` by default.
        track_seq_idx, track_end_locs: ``(tracked,)``, positions in the packed batch, each inside
            its sequence, at which the state is asked for.

    Returns:
        The output goes to ``out`` alone. Returned are, with
        ``return_track_states``: intermediate, varlen and tracked states (None where nothing is
        tracked); with ``return_intermediate_states``: intermediate states, then final ones if
        asked for, then varlen ones if asked for; otherwise final ones, varlen ones, both or None.
        Intermediate states are ``(batch, ceil(seqlen / chunk_size), nheads, headdim, dstate)``,
        number ``c`` being the state after ``c * chunk_size`` tokens, in the sequence of the last
        of these; varlen ones are ``(sequences, nheads, headdim, dstate)``, the state at each
        sequence's end; tracked ones have a leading 1.

    Raises:
        ValueError: ``out`` or ``cu_seqlens`` is missing, or shapes do not belong together.
    """
    if out is None:
        raise ValueError("mamba_chunk_scan_combined writes to `out`, which was not given")
    if return_track_states and not return_varlen_states:
        raise ValueError("return_track_states needs return_varlen_states")
    batch, seqlen = x.shape[:2]
    bounds = _bounds(x, cu_seqlens, seq_idx, return_varlen_states)

    step = dt.float()
    if dt_bias is not None:
        step = step + dt_bias.float()
    if dt_softplus:
        step = F.softplus(step)
    step = step.clamp(*dt_limit)

    # Chunk ends in every row of the batch, counted over the flattened batch.
    chunk_ends = torch.arange(1, max(1, -(-seqlen // chunk_size)), device=x.device) * chunk_size
    chunk_ends = chunk_ends + torch.arange(batch, device=x.device)[:, None] * seqlen
    packed = (x.flatten(0, 1), step.flatten(0, 1), A, B.flatten(0, 1))
    scan = scan_packed(
        *packed, C.flatten(0, 1), bounds, initial=initial_states, extra_cuts=chunk_ends.flatten()
    )
    _finish_output(out, scan.y.view(x.shape), x, D, z)

    dtype = C.dtype if state_dtype is None else state_dtype
    last = scan.state_at(torch.arange(len(bounds) - 1, device=x.device), bounds[1:]).to(dtype)
    final = last[-1:] if return_varlen_states else last
    intermediate = _intermediate_states(scan, bounds, chunk_ends).to(dtype)
    if return_track_states:
        track = None
        if track_seq_idx is not None and track_end_locs is not None and len(track_end_locs):
            track = states_inside(scan, *packed, track_seq_idx, track_end_locs).to(dtype)[None]
        return intermediate, last, track
    asked = [intermediate] if return_intermediate_states else []
    asked += [final] if return_final_states else []
    asked += [last] if return_varlen_states else []
    if len(asked) > 1:
        return tuple(asked)
    return asked[0] if asked else None


def _bounds(x: Tensor, cu_seqlens: Tensor | None, seq_idx: Tensor | None, packed: bool) -> Tensor:
    """Where the sequences of a batch begin and end once its rows are laid end to end."""
    batch, seqlen = x.shape[:2]
    if not packed:
        if seq_idx is not None:
            raise ValueError("seq_idx needs cu_seqlens and return_varlen_states")
        return torch.arange(batch + 1, device=x.device) * seqlen
    if cu_seqlens is None:
        raise ValueError("return_varlen_states needs cu_seqlens")
    if batch != 1:
        raise ValueError(f"a packed batch has one row, got {batch}")
    return cu_seqlens.long()


def _finish_output(out: Tensor, y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> None:
    if D is not None:
        y.add_(x.float() * (D.float() if D.dim() == 2 else D.float()[:, None]))
    if z is not None:
        y.mul_(F.silu(z.float()))
    out.copy_(y)


def _intermediate_states(scan: PackedScan, bounds: Tensor, chunk_ends: Tensor) -> Tensor:
    """``(batch, chunks, ...)``: the first row's state, then the one at each chunk's end."""
    rows, per_row = chunk_ends.shape
    # The sequence of the last token before the position, not of the first one behind it.
    owner = torch.searchsorted(bounds, chunk_ends.flatten()) - 1
    inner = scan.state_at(owner, chunk_ends.flatten())
    first = scan.initial[:rows]
    return torch.cat([first[:, None], inner.view(rows, per_row, *first.shape[1:])], dim=1)


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
    pad_slot_id: int = -1,
    out: Tensor | None = None,
    disable_state_update: bool = False,
    intermediate_states_buffer: Tensor | None = None,
    cache_steps: int | None = None,
    retrieve_parent_token: Tensor | None = None,
    intermediate_state_indices: Tensor | None = None,
    enable_stochastic_rounding: bool = False,
    cache_philox_rounds: int = 0,
) -> None:
    """One or a few decode steps of the recurrence; states and ``out`` are written in place.

    Formulas: arXiv 2405.21060, equation (2) with the discretisation of section 2.1.

    Args:
        state: ``(slots, nheads, headdim, dstate)`` or without ``nheads``.
        x: ``(batch, nheads, headdim)``, ``(batch, steps, nheads, headdim)``, or
            ``(batch, headdim)`` where ``state`` has no heads.
        dt: like ``x``, before bias and softplus.
        A: ``(nheads, headdim, dstate)`` or ``(headdim, dstate)``.
        B, C: ``(batch, ngroups, dstate)``, with ``steps`` as second dimension where ``x`` has it,
            or ``(batch, dstate)``.
        D, dt_bias: ``(nheads, headdim)`` or ``(headdim,)``.
        z: like ``x``; the output is multiplied by ``silu(z)``.
        state_batch_indices: ``(batch,)``, the slot of each row; row ``i`` has slot ``i`` without.
        pad_slot_id: a row with this slot reads zeros and writes no state.
        out: like ``x``.
        disable_state_update: leave the states as they are.

    Raises:
        NotImplementedError: speculative verification or stochastic rounding is asked for.
        ValueError: ``out`` is missing.
    """
    refuse_speculation(intermediate_states_buffer, retrieve_parent_token)
    if enable_stochastic_rounding:
        raise NotImplementedError("stochastic rounding of the recurrent state needs a GPU")
    if out is None:
        raise ValueError("selective_state_update writes to `out`, which was not given")
    if state.dim() == 3:
        state = state.unsqueeze(1)
    x, dt, B, C, out = (_with_steps(t) for t in (x, dt, B, C, out))
    z = None if z is None else _with_steps(z)
    A = A if A.dim() == 3 else A[None]
    D = D if D is None or D.dim() == 2 else D[None]
    dt_bias = dt_bias if dt_bias is None or dt_bias.dim() == 2 else dt_bias[None]
    # Mamba2 has one A and one dt per head and passes them expanded: no need to take the
    # exponential of every copy.
    if A.stride(1) == 0 and A.stride(2) == 0:
        A = A[:, :1, :1]
    step = dt.float() if dt.stride(-1) else dt[..., :1].float()
    if dt_bias is not None:
        step = step + (dt_bias if dt_bias.stride(-1) else dt_bias[:, :1]).float()
    if dt_softplus:
        step = F.softplus(step)
    heads_per_group = state.shape[1] // B.shape[2]
    B, C = (t.float().repeat_interleave(heads_per_group, dim=2) for t in (B, C))

    rows = torch.arange(x.shape[0], device=x.device)
    slots = rows if state_batch_indices is None else state_batch_indices.long()
    if state_batch_indices is not None:
        rows = torch.nonzero(slots != pad_slot_id).flatten()
    held = state.new_zeros(x.shape[0], *state.shape[1:], dtype=torch.float32)
    held[rows] = state[slots[rows]].float()
    for t in range(x.shape[1]):
        held *= torch.exp(step[:, t, ..., None] * A.float())
        held += (step[:, t] * x[:, t].float())[..., None] * B[:, t, :, None, :]
        y = torch.matmul(held, C[:, t, ..., None]).squeeze(-1)
        if D is not None:
            y += x[:, t].float() * D.float()
        if z is not None:
            y *= F.silu(z[:, t].float())
        out[:, t] = y
    if not disable_state_update:
        state[slots[rows]] = held[rows].to(state.dtype)


def _with_steps(tensor: Tensor) -> Tensor:
    """``(batch, steps, heads or groups, features)`` from any of the accepted layouts."""
    if tensor.dim() == 2:
        tensor = tensor.unsqueeze(1)
    return tensor if tensor.dim() == 4 else tensor.unsqueeze(1)
