"""The delta rule on the slots of a state pool, as the operations of GDN and KDA share it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .delta_rule import PackedDelta, scan_delta_rule, step_delta_rule


def forget_gate(
    a: Tensor,
    A_log: Tensor,
    dt_bias: Tensor | None,
    lower_bound: float | None = None,
    beta: float = 1.0,
    threshold: float = 20.0,
) -> Tensor:
    """Log decays: ``-exp(A_log) * softplus(a + dt_bias)``, or as KDA's safe gate has them,
    ``lower_bound * sigmoid(exp(A_log) * (a + dt_bias))``.

    Args:
        a: any shape, before the bias.
        A_log, dt_bias: shapes that broadcast to that of ``a``.
        lower_bound: negative, asks for the safe gate.
        beta, threshold: those of the softplus.

    Returns:
        Float32, not positive.
    """
    raw = a.float() if dt_bias is None else a.float() + dt_bias.float()
    rate = A_log.float().exp()
    if lower_bound is not None:
        return (rate * raw).sigmoid_().mul_(lower_bound)
    return F.softplus(raw, beta, threshold).mul_(rate).neg_()


def queries_and_keys(
    q: Tensor, k: Tensor, scale: float | None, normalise: bool
) -> tuple[Tensor, Tensor]:
    """What the recurrence takes of a batch's ``(batch, seqlen, H, K)``, rows laid end to end.

    Args:
        scale: what queries are multiplied by, ``K ** -0.5`` where it is None.
        normalise: bring queries and keys to unit length first.
    """
    q, k = (_unit_length(t) if normalise else t.float() for t in (q, k))
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    return (q * scale).flatten(0, 1), k.flatten(0, 1)


def scan_slots(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    pool: Tensor,
    slots: Tensor,
    bounds: Tensor,
    write: bool = True,
) -> PackedDelta:
    """:func:`scan_delta_rule` from and to slots; one that is negative reads zeros, keeps nothing.

    Args:
        pool: ``(slots, HV, V, K)``; with ``write`` its slots receive the last states.
        slots: ``(sequences,)`` integers.
    """
    slots = slots.long()
    padding = _padding(slots)
    states = _read(pool, slots, padding)
    scan = scan_delta_rule(q, k, v, log_decay, beta, bounds, states)
    if write:
        _write(pool, slots, padding, scan.final)
    return scan


def advance_slots(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    pool: Tensor,
    slots: Tensor,
    bounds: Tensor,
) -> Tensor:
    """The output of :func:`scan_slots`, faster where each sequence has one token."""
    if len(slots) == len(v) and bool((bounds.diff() == 1).all()):
        slots = slots.long()
        return _step_slots(q, k, v, log_decay, beta, pool, slots, _padding(slots))
    return scan_slots(q, k, v, log_decay, beta, pool, slots, bounds).output


def step_packed(
    mixed_qkv: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    scale: float,
    pool: Tensor,
    out: Tensor,
    slots: Tensor,
    normalise: bool,
) -> None:
    """A decode step on what the convolution gave; a row with a negative slot gives zeros.

    Args:
        mixed_qkv: ``(batch, 2 * H * K + HV * V)``: queries, keys and values of a token.
        log_decay: ``(batch, HV)`` or ``(batch, HV, K)``.
        beta: ``(batch, HV)``.
        scale: what queries are multiplied by.
        pool: ``(slots, HV, V, K)``, changed in place.
        out: ``(batch, 1, HV, V)``, receives the output.
        slots: ``(batch,)`` integers.
        normalise: bring queries and keys to unit length.
    """
    heads, value_dim, key_dim = pool.shape[1:]
    batch, features = mixed_qkv.shape
    both, v = mixed_qkv.split_with_sizes([features - heads * value_dim, heads * value_dim], 1)
    both = both.reshape(batch, -1, key_dim)
    q, k = (_unit_length(both) if normalise else both.float()).chunk(2, 1)
    v = v.reshape(batch, heads, value_dim)
    slots = slots.long()
    padding = _padding(slots)
    out[:, 0] = _step_slots(q * scale, k, v, log_decay, beta, pool, slots, padding)
    if padding is not None:
        out[padding] = 0


def entering_states(scan: PackedDelta, like: Tensor) -> Tensor:
    """``(batch, chunks, HV, V, K)``, as SGLang's kernels return them.

    Args:
        like: has their dtype, and as first dimension the batch.
    """
    batch, sizes = like.shape[0], scan.entering.shape[1:]
    return scan.entering.to(like.dtype).view(batch, len(scan.entering) // batch, *sizes)


def packed_bounds(tokens: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Where the sequences begin and end once the rows of ``(batch, seqlen, ...)`` are end to end.

    Raises:
        ValueError: ``cu_seqlens`` is given for more than one row.
    """
    batch, seqlen = tokens.shape[:2]
    if cu_seqlens is None:
        return torch.arange(batch + 1, device=tokens.device) * seqlen
    if batch != 1:
        raise ValueError(f"a packed batch has one row, got {batch}")
    return cu_seqlens


def _unit_length(x: Tensor) -> Tensor:
    """``x / sqrt(sum(x^2) + 1e-6)`` along the last dimension, in float32."""
    x = x.float()
    return x * x.square().sum(-1, keepdim=True).add_(1e-6).rsqrt_()


def _step_slots(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    pool: Tensor,
    slots: Tensor,
    padding: Tensor | None,
) -> Tensor:
    """:func:`step_delta_rule` from and to slots; one that is negative reads zeros, keeps nothing.

    Args:
        pool: ``(slots, HV, V, K)``, changed in place.
        slots: ``(sequences,)`` int64.
        padding: where ``slots`` are negative, None if nowhere.
    """
    states = _read(pool, slots, padding)
    output = step_delta_rule(q, k, v, log_decay, beta, states)
    _write(pool, slots, padding, states)
    return output


def _padding(slots: Tensor) -> Tensor | None:
    if not len(slots) or int(slots.min()) >= 0:
        return None
    return slots < 0


def _read(pool: Tensor, slots: Tensor, padding: Tensor | None) -> Tensor:
    states = pool[slots].float()
    if padding is not None:
        states[padding] = 0
    return states


def _write(pool: Tensor, slots: Tensor, padding: Tensor | None, states: Tensor) -> None:
    if padding is not None:
        slots, states = slots[~padding], states[~padding]
    pool[slots] = states.to(pool.dtype)
