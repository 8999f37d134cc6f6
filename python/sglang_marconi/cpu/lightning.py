"""Lightning attention on a CPU, under the signatures SGLang calls it with.

A head with slope ``a`` keeps a state ``S`` of shape ``(dim, dim)`` and for each token does

    S_t = exp(-a) * S_{t-1} + k_t v_t^T        o_t = scale * q_t S_t

(arXiv 2401.04658, section 3.1). That is Mamba2's recurrence with a step size of 1, ``A = -a``,
``x = v``, ``B = k`` and ``C = scale * q``, and its state transposed, so :mod:`.ssd` evaluates it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .speculation import refuse_speculation
from .ssd import PIECE_TOKENS, PackedScan, scan_packed


def seg_la_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    s: Tensor,
    decay_scales: Tensor,
    meta: Any,
    caches: Tensor | None = None,
    cache_indices: Tensor | None = None,
    track_lens: Tensor | None = None,
    track_state_indices: Tensor | None = None,
    softmax_scale: float | None = None,
) -> Tensor:
    """Lightning attention over sequences laid end to end, or one decode step of each.

    Args:
        q, k, v: ``(tokens, heads, dim)``, as many heads each.
        s: ``(slots, heads, dim, dim)``, keys' dimension first; the states move on in place.
        decay_scales: the slopes of the heads, ``heads`` elements.
        meta: SGLang's ``SegLaMeta``. Read are ``q_offsets`` ``(sequences + 1,)``, where each
            sequence begins, ``s_offsets`` ``(sequences,)``, its slot, and ``s_scales``
            ``(sequences,)``, zero for a sequence that starts from a state of zeros. A sequence
            whose slot is -1 gets zeros and leaves no state.
        track_lens: ``(sequences,)``, after how many of its tokens a sequence's state is also
            copied; no copy for 0 and for more tokens than it has.
        track_state_indices: ``(sequences,)``, the slot of the copy; negative for none.
        softmax_scale: ``dim ** -0.5`` by default.

    Returns:
        ``(tokens, heads, dim)``, dtype of ``q``.

    Raises:
        NotImplementedError: verification of drafts is asked for.
    """
    refuse_speculation(caches, meta.mask)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    slopes = decay_scales.flatten().float()
    bounds, slots = meta.q_offsets.long(), meta.s_offsets.long()
    lengths = bounds.diff()
    kept = slots != -1
    used = slots.clamp(min=0)
    resumed = kept & (meta.s_scales > 0)
    initial = torch.where(resumed[:, None, None, None], s[used].float(), 0.0)
    scan = None
    if bool((lengths == 1).all()):
        rows = bounds[:-1]
        out, last = _step(q[rows], k[rows], v[rows], initial, slopes, scale)
    else:
        total = int(bounds[-1])
        part = slice(0, total)
        scan = _scan(q[part], k[part], v[part], bounds, initial, slopes, scale)
        rows = torch.arange(total, device=q.device)
        out, last = scan.y, _state_at(scan, bounds[1:])

    result = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    owner_kept = torch.repeat_interleave(kept, lengths)
    result[rows[owner_kept]] = out[owner_kept].to(q.dtype)
    if track_lens is not None and track_state_indices is not None:
        wanted = kept & (track_state_indices >= 0) & (track_lens > 0) & (track_lens <= lengths)
        at = torch.nonzero(wanted).flatten()
        ends = bounds[at] + track_lens[at].long()
        copied = last[at] if scan is None else _inside(scan, k, v, slopes, at, ends)
        s[track_state_indices[at].long()] = copied.to(s.dtype)
    s[slots[kept]] = last[kept].to(s.dtype)
    return result


def lightning_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ed: Tensor,
    block_size: int = 256,
    kv_history: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Lightning attention over a plain batch, without a scale (Ling's backend ``minimax``).

    Args:
        q, k: ``(batch, heads, tokens, dim)``.
        v: ``(batch, heads, tokens, dim_v)``.
        ed: the slopes of the heads, ``heads`` elements.
        block_size: not used; results do not depend on it.
        kv_history: ``(batch, heads, dim, dim_v)``, the states to start from; zeros without.

    Returns:
        Output ``(batch, heads, tokens, dim_v)`` in the dtype of ``q``, and the states behind the
        last token, ``(batch, heads, 1, dim, dim_v)`` float32. SGLang's kernel has those before
        each block in front of them; nothing reads these.
    """
    batch, heads, tokens, dim = q.shape
    bounds = torch.arange(batch + 1, device=q.device) * tokens
    rows = [t.transpose(1, 2).flatten(0, 1) for t in (q, k, v)]
    initial = kv_history
    if initial is None:
        initial = q.new_zeros(batch, heads, dim, v.shape[-1], dtype=torch.float32)
    scan = _scan(rows[0], rows[1], rows[2], bounds, initial, ed.flatten().float(), 1.0)
    output = scan.y.view(batch, tokens, heads, -1).transpose(1, 2).to(q.dtype)
    return output, _state_at(scan, bounds[1:])[:, :, None]


def linear_decode_forward_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kv_caches: Tensor,
    slope_rate: Tensor,
    slot_idx: Tensor,
    BLOCK_SIZE: int = 32,
) -> Tensor:
    """One decode step of lightning attention, without a scale; the states move on in place.

    Args:
        q, k, v: ``(batch, heads, 1, dim)``.
        kv_caches: ``(slots, heads, dim, dim)``, keys' dimension first.
        slope_rate: the slopes of the heads, ``heads`` elements.
        slot_idx: ``(batch,)``; a row whose slot is -1 gets zeros and leaves no state.
        BLOCK_SIZE: how the kernel splits ``dim``; not used.

    Returns:
        ``(batch, heads * dim)``, dtype of ``q``.
    """
    result = torch.zeros(q.shape[0], q.shape[1] * v.shape[-1], dtype=q.dtype, device=q.device)
    rows = torch.nonzero(slot_idx != -1).flatten()
    slots = slot_idx[rows].long()
    token = [t[rows, :, 0] for t in (q, k, v)]
    held = kv_caches[slots].float()
    out, last = _step(token[0], token[1], token[2], held, slope_rate.flatten().float(), 1.0)
    kv_caches[slots] = last.to(kv_caches.dtype)
    result[rows] = out.flatten(1).to(q.dtype)
    return result


def _step(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, slopes: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output and next state of one token of each row: ``n h p`` and ``n h s p``."""
    state = state * torch.exp(-slopes)[:, None, None]
    state.addcmul_(k.float()[..., None], v.float()[..., None, :])
    out = torch.matmul((q.float() * scale)[..., None, :], state).squeeze(-2)
    return out, state


def _scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bounds: Tensor,
    initial: Tensor,
    slopes: Tensor,
    scale: float,
) -> PackedScan:
    ones = torch.ones(v.shape[:2], device=v.device)
    first = initial.transpose(-1, -2)
    return scan_packed(v, ones, -slopes, k, q.float() * scale, bounds, first)


def _state_at(scan: PackedScan, positions: Tensor, sequences: Tensor | None = None) -> Tensor:
    """States of all or some sequences after the batch's first ``positions`` tokens: ``n h s p``."""
    if sequences is None:
        sequences = torch.arange(len(positions), device=positions.device)
    return scan.state_at(sequences, positions).transpose(-1, -2)


def _inside(
    scan: PackedScan, k: Tensor, v: Tensor, slopes: Tensor, sequences: Tensor, positions: Tensor
) -> Tensor:
    """:func:`_state_at` for any positions, by what they have behind the last piece before them.

    The scan is not cut there, as its output would depend on it in the last digits.
    """
    begins = torch.maximum(scan.starts[sequences], positions // PIECE_TOKENS * PIECE_TOKENS)
    rest = positions - begins
    bounds = F.pad(rest.cumsum(0), (1, 0))
    owners = torch.repeat_interleave(rest)
    tokens = (begins - bounds[:-1])[owners] + torch.arange(len(owners), device=k.device)
    keys = k[tokens]
    before = _state_at(scan, begins, sequences)
    return _state_at(_scan(keys, keys, v[tokens], bounds, before, slopes, 1.0), bounds[1:])
