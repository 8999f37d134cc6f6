"""Inkling's gate, experts and attention on a CPU, under the signatures SGLang calls them with."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .experts import routed_sum


def gate_topk(
    x: Tensor, k: int, *, return_values: bool = True, _impl: str = "streaming"
) -> tuple[Tensor, Tensor] | Tensor:
    """The ``k`` largest of each row, the first ones of equals, in descending order.

    Args:
        x: ``(rows, columns)``.
        return_values: return them, too, in front of their columns.
        _impl: which kernel; not used.

    Returns:
        Columns ``(rows, k)`` int32, or ``(values, columns)``.
    """
    values, columns = torch.sort(x, dim=-1, descending=True, stable=True)
    chosen = columns[:, :k].int()
    return (values[:, :k].contiguous(), chosen) if return_values else chosen


def silu_and_mul(
    gateup_output: Tensor,
    topk_weights: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_interleaved: bool = True,
) -> Tensor:
    """``silu(gate) * up``, times a weight for each row.

    Args:
        gateup_output: ``(rows, 2 * inner)``.
        topk_weights: ``(rows,)`` or None.
        out_dtype: that of ``gateup_output`` by default.
        use_interleaved: gate and up alternate; otherwise the gate comes first.

    Returns:
        ``(rows, inner)``; computed in float32.
    """
    value = gateup_output.float()
    gate, up = (value[:, ::2], value[:, 1::2]) if use_interleaved else value.chunk(2, -1)
    result = F.silu(gate) * up
    if topk_weights is not None:
        result *= topk_weights.float()[:, None]
    return result.to(gateup_output.dtype if out_dtype is None else out_dtype)


def silu_and_mul_triton(
    gateup_output: Tensor, topk_weights: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """:func:`silu_and_mul` of gates and ups that alternate."""
    return silu_and_mul(gateup_output, topk_weights, out_dtype)


def moe_tp_forward(
    hidden_states: Tensor,
    topk_weights: Tensor,
    topk_ids: Tensor,
    w13_weight_E_2f_D: Tensor,
    w2_weight_EDf: Tensor,
    w13_bias_E_2f: Tensor | None = None,
    w2_bias_ED: Tensor | None = None,
    activation_type: str = "silu_and_mul",
    use_interleaved: bool = True,
) -> Tensor:
    """Send tokens through the experts they are routed to.

    Args:
        hidden_states: ``(..., features)``.
        topk_weights, topk_ids: ``(..., k)``.
        w13_weight_E_2f_D: ``(experts, 2 * inner, features)``.
        w2_weight_EDf: ``(experts, features, inner)``.
        w13_bias_E_2f, w2_bias_ED: ``(experts, 2 * inner)`` and ``(experts, features)``, or None.
        activation_type: ``"silu_and_mul"``.
        use_interleaved: see :func:`silu_and_mul`.

    Returns:
        Like ``hidden_states``; the sum over experts is in float32.

    Raises:
        ValueError: the activation is another one.
    """
    if activation_type != "silu_and_mul":
        raise ValueError(f"experts with {activation_type!r}")
    layer = SimpleNamespace(
        w13_weight=w13_weight_E_2f_D,
        w2_weight=w2_weight_EDf,
        w13_weight_bias=w13_bias_E_2f,
        w2_weight_bias=w2_bias_ED,
    )
    ids, weights = (t.reshape(-1, t.shape[-1]) for t in (topk_ids, topk_weights))

    def activate(inner: Tensor) -> Tensor:
        return silu_and_mul(inner, use_interleaved=use_interleaved)

    result = routed_sum(layer, hidden_states.flatten(0, -2), ids, weights, activate)
    return result.to(hidden_states.dtype).view(hidden_states.shape)


def apply_log_scaling_tau(x: Tensor, tau: Tensor) -> Tensor:
    """Scale a token's queries by the logarithm of its position.

    Args:
        x: ``(tokens, ...)``.
        tau: ``tokens`` elements, with as many dimensions as ``x``.

    Returns:
        Like ``x``; computed in float32.
    """
    return (x.float() * tau.float()).to(x.dtype)


def serving_attention_backend(forward_batch: Any) -> str:
    """The one of Inkling's two kinds of attention that passes its bias on as it is."""
    return "triton"


def attend_extend(
    original: Callable[..., Tensor],
    backend: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer: Any,
    forward_batch: Any,
    save_kv_cache: bool = True,
    score_mod: object = None,
    aux_tensors: list[Tensor] | None = None,
) -> Tensor:
    """`TorchNativeAttnBackend.forward_extend` with Inkling's bias, around SGLang's without.

    Args:
        original: SGLang's method.
        backend: the attention backend.
        q, k, v: ``(tokens, heads * dim)``, of the layer's heads of each kind.
        layer: SGLang's ``RadixAttention``.
        score_mod: the kernel that adds the bias; not used.
        aux_tensors: the bias for each distance back, ``(tokens, heads, extent)``.

    Returns:
        ``(tokens, heads * dim)``.
    """
    if aux_tensors is None:
        return original(backend, q, k, v, layer, forward_batch, save_kv_cache)
    lengths = forward_batch.extend_seq_lens
    return _attend(backend, (q, k, v), layer, forward_batch, save_kv_cache, aux_tensors[0], lengths)


def attend_decode(
    original: Callable[..., Tensor],
    backend: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer: Any,
    forward_batch: Any,
    save_kv_cache: bool = True,
    score_mod: object = None,
    aux_tensors: list[Tensor] | None = None,
) -> Tensor:
    """:func:`attend_extend` for `forward_decode`: a token of each sequence."""
    if aux_tensors is None:
        return original(backend, q, k, v, layer, forward_batch, save_kv_cache)
    lengths = torch.ones_like(forward_batch.seq_lens)
    return _attend(backend, (q, k, v), layer, forward_batch, save_kv_cache, aux_tensors[0], lengths)


def relative_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, first: int, scale: float, window: int
) -> Tensor:
    """Causal attention of one sequence's last tokens with a bias for each distance.

    Args:
        q: ``(queries, heads, dim)``.
        k, v: ``(keys, kv_heads, dim)``.
        bias: ``(queries, heads, extent)``, added to the scaled scores of the keys that many
            tokens back; none is added farther back.
        first: the key of the first query's own token.
        window: how many tokens back a query sees; all for a negative one.

    Returns:
        ``(queries, heads, dim)``.
    """
    queries, heads, extent = bias.shape
    distance = torch.arange(first, first + queries)[:, None] - torch.arange(len(k))
    by_distance = F.pad(bias.transpose(0, 1), (0, 1))  # zero for what is farther back
    places = distance.clamp(0, extent).expand(heads, -1, -1)
    unseen = distance < 0
    if window >= 0:
        unseen |= distance > window
    mask = by_distance.gather(-1, places).masked_fill(unseen, float("-inf"))
    q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    out = F.scaled_dot_product_attention(
        q[None], k[None], v[None], attn_mask=mask[None].to(q.dtype), scale=scale, enable_gqa=True
    )
    return out[0].transpose(0, 1)


def _attend(
    backend: Any,
    qkv: tuple[Tensor, Tensor, Tensor],
    layer: Any,
    batch: Any,
    save: bool,
    bias: Tensor,
    lengths: Tensor,
) -> Tensor:
    from sglang.srt.mem_cache.memory_pool import KVWriteLoc

    pool = backend.token_to_kv_pool
    if save:
        places = KVWriteLoc(batch.out_cache_loc, backend.swa_out_cache_loc)
        pool.set_kv_buffer(layer, places, *qkv[1:])
    keys, values = pool.get_key_buffer(layer.layer_id), pool.get_value_buffer(layer.layer_id)
    # A pool of its own for the layers with a window, with places of its own.
    apart = getattr(pool, "layers_mapping", {}).get(layer.layer_id, (0, False))[1]
    window = -1 if layer.sliding_window_size is None else layer.sliding_window_size
    q = qkv[0].view(-1, layer.tp_q_head_num, layer.qk_head_dim)
    out = q.new_empty(len(q), layer.tp_q_head_num, layer.v_head_dim)
    begin = 0
    sequences = torch.stack([batch.req_pool_indices, lengths, batch.seq_lens], 1)
    for request, length, total in sequences.tolist():
        part = slice(begin, begin + length)
        begin += length
        # Keys that no query sees may be gone already.
        oldest = 0 if window < 0 else max(0, total - length - window)
        tokens = backend.req_to_token_pool.req_to_token[request, oldest:total].long()
        if apart:
            tokens = pool.translate_loc_from_full_to_swa(tokens).long()
        out[part] = relative_attention(
            q[part],
            keys[tokens].to(q.dtype),
            values[tokens].to(q.dtype),
            bias[part],
            total - length - oldest,
            layer.scaling,
            window,
        )
    return out.flatten(1)
