"""Every kind of layer as plain torch products, one token after another.

Nothing here is fast or normalised: what counts is that each multiply-add that the layer is
made of happens once, in an operation that torch's FLOP counter knows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from sglang_marconi.cost.attention import Attention, LatentAttention
from sglang_marconi.cost.delta import GatedDeltaNet, JetBlock, KimiDeltaAttention
from sglang_marconi.cost.feedforward import MLP, MixtureOfExperts
from sglang_marconi.cost.layer import LayerCost
from sglang_marconi.cost.linear import LightningAttention, ShortConvolution
from sglang_marconi.cost.mamba import Mamba1, Mamba2
from torch import Tensor
from torch.nn import functional as F


def weight(inputs: int, outputs: int) -> Tensor:
    return torch.randn(inputs, outputs)


def causal_conv(x: Tensor, kernel: int) -> Tensor:
    """Each channel of ``x`` (tokens, channels) with its own filter over the last tokens."""
    channels = x.shape[1]
    padded = F.pad(x.T.unsqueeze(0), (kernel - 1, 0))
    return F.conv1d(padded, torch.randn(channels, 1, kernel), groups=channels)[0].T


def attend(queries: Tensor, keys: Tensor, values: Tensor, start: int, window: int | None) -> Tensor:
    """Heads first: queries (H, tokens, d) at positions from ``start``, keys from 0.

    Which keys are attended to does not matter to their cost, so chosen keys are the last ones.
    """
    out = []
    for index in range(queries.shape[1]):
        end = start + index + 1
        first = 0 if window is None else max(0, end - window)
        scores = queries[:, index : index + 1] @ keys[:, first:end].mT
        out.append(scores.softmax(-1) @ values[:, first:end])
    return torch.cat(out, dim=1).transpose(0, 1).flatten(1)


def heads_of(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(1, (heads, -1)).transpose(0, 1)


def attention(layer: Attention, x: Tensor, start: int) -> None:
    query, kv = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    share = layer.heads // layer.kv_heads
    cached = torch.randn(2, layer.kv_heads, start, layer.head_dim)
    q = heads_of(x @ weight(layer.hidden, query), layer.heads)
    k = torch.cat([cached[0], heads_of(x @ weight(layer.hidden, kv), layer.kv_heads)], 1)
    v = torch.cat([cached[1], heads_of(x @ weight(layer.hidden, kv), layer.kv_heads)], 1)
    most = layer.window if layer.selected is None else layer.selected
    out = attend(q, k.repeat_interleave(share, 0), v.repeat_interleave(share, 0), start, most)
    if layer.gated:
        out = out * (x @ weight(layer.hidden, query)).sigmoid()
    out @ weight(query, layer.hidden)


def latent_attention(layer: LatentAttention, x: Tensor, start: int) -> None:
    heads, nope, rope, v_dim = layer.heads, layer.nope_dim, layer.rope_dim, layer.v_dim
    if layer.q_rank is None:
        q = x @ weight(layer.hidden, heads * (nope + rope))
    else:
        q = x @ weight(layer.hidden, layer.q_rank) @ weight(layer.q_rank, heads * (nope + rope))
    latent, shared = (x @ weight(layer.hidden, layer.kv_rank + rope)).split(
        [layer.kv_rank, rope], 1
    )
    if layer.selected is None:
        expanded = heads_of(latent @ weight(layer.kv_rank, heads * (nope + v_dim)), heads)
        k = torch.cat([expanded[..., :nope], shared.expand(heads, -1, -1)], -1)
        v = expanded[..., nope:]
        k = torch.cat([torch.randn(heads, start, nope + rope), k], 1)
        v = torch.cat([torch.randn(heads, start, v_dim), v], 1)
        out = attend(heads_of(q, heads), k, v, start, None)
    else:
        latents = torch.cat([torch.randn(start, layer.kv_rank), latent])
        rotary = torch.cat([torch.randn(start, rope), shared])
        content, turned = heads_of(q, heads).split([nope, rope], -1)
        absorbed = content @ torch.randn(heads, nope, layer.kv_rank)
        k = torch.cat([latents, rotary], -1).expand(heads, -1, -1)
        v = latents.expand(heads, -1, -1)
        mixed = attend(torch.cat([absorbed, turned], -1), k, v, start, layer.selected)
        out = heads_of(mixed, heads) @ torch.randn(heads, layer.kv_rank, v_dim)
        out = out.transpose(0, 1).flatten(1)
    if layer.gate_dim:
        gate = (x @ weight(layer.hidden, layer.gate_dim)).sigmoid()
        out = out * gate.repeat_interleave(out.shape[1] // layer.gate_dim, 1)
    out @ weight(heads * v_dim, layer.hidden)


def run_mlp(x: Tensor, intermediate: int, gated: bool) -> Tensor:
    up = x @ weight(x.shape[1], intermediate)
    if gated:
        up = up * F.silu(x @ weight(x.shape[1], intermediate))
    return up @ weight(intermediate, x.shape[1])


def mlp(layer: MLP, x: Tensor, start: int) -> None:
    run_mlp(x, layer.intermediate, layer.gated)


def mixture_of_experts(layer: MixtureOfExperts, x: Tensor, start: int) -> None:
    if layer.router is None:
        logits = x @ weight(layer.hidden, layer.experts)
    else:
        logits = x @ weight(layer.hidden, layer.router // layer.hidden)
    chosen = logits.topk(layer.active).indices
    routed = x if layer.latent is None else x @ weight(layer.hidden, layer.latent)
    rows = []
    for token, experts in zip(routed, chosen, strict=True):
        outputs = [run_mlp(token[None], layer.intermediate, layer.gated) for _ in experts]
        rows.append(torch.stack(outputs).sum(0))
    out = torch.cat(rows)
    if layer.latent is not None:
        out = out @ weight(layer.latent, layer.hidden)
    if layer.shared_intermediate:
        out = out + run_mlp(x, layer.shared_intermediate, layer.gated)


def mamba1(layer: Mamba1, x: Tensor, start: int) -> None:
    inner, n = layer.inner, layer.state_dim
    u, gate = (x @ weight(layer.hidden, 2 * inner)).chunk(2, 1)
    u = F.silu(causal_conv(u, layer.conv_kernel))
    rank, b, c = (u @ weight(inner, layer.dt_rank + 2 * n)).split([layer.dt_rank, n, n], 1)
    dt = F.softplus(rank @ weight(layer.dt_rank, inner))
    state, out = torch.zeros(inner, n), []
    for t in range(x.shape[0]):
        decay = (-dt[t])[:, None].exp()
        state = decay * state + (dt[t] * u[t])[:, None] @ b[t][None]
        out.append(state @ c[t][:, None])
    (torch.cat(out, 1).T * F.silu(gate)) @ weight(inner, layer.hidden)


def mamba2(layer: Mamba2, x: Tensor, start: int) -> None:
    heads, inner, n = layer.heads, layer.heads * layer.head_dim, layer.state_dim
    bc = layer.groups * n
    z, xbc, dt = (x @ weight(layer.hidden, 2 * inner + 2 * bc + heads)).split(
        [inner, inner + 2 * bc, heads], 1
    )
    u, b, c = F.silu(causal_conv(xbc, layer.conv_kernel)).split([inner, bc, bc], 1)
    u = u.unflatten(1, (heads, layer.head_dim))
    share = heads // layer.groups
    b = b.unflatten(1, (layer.groups, n)).repeat_interleave(share, 1)
    c = c.unflatten(1, (layer.groups, n)).repeat_interleave(share, 1)
    dt = F.softplus(dt)
    state, out = torch.zeros(heads, layer.head_dim, n), []
    for t in range(x.shape[0]):
        write = (dt[t][:, None] * u[t])[:, :, None] @ b[t][:, None]
        state = (-dt[t]).exp()[:, None, None] * state + write
        out.append((state @ c[t][:, :, None]).flatten())
    (torch.stack(out) * F.silu(z)) @ weight(inner, layer.hidden)


def delta_rule(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, strength: Tensor) -> Tensor:
    """(tokens, heads, dim) each; the state of a head is key_dim x value_dim."""
    state, out = torch.zeros(q.shape[1], k.shape[2], v.shape[2]), []
    for t in range(q.shape[0]):
        state = decay[t] * state
        held = k[t][:, None] @ state
        change = strength[t] * (v[t][:, None] - held)
        state = state + k[t][:, :, None] @ change
        out.append((q[t][:, None] @ state).flatten())
    return torch.stack(out)


def gated_delta_net(layer: GatedDeltaNet, x: Tensor, start: int) -> None:
    key, value = layer.key_heads * layer.key_dim, layer.value_heads * layer.value_dim
    heads, share = layer.value_heads, layer.value_heads // layer.key_heads
    qkv = causal_conv(x @ weight(layer.hidden, 2 * key + value), layer.conv_kernel)
    q, k, v = qkv.split([key, key, value], 1)
    gate = x @ weight(layer.hidden, value)
    a, b = (x @ weight(layer.hidden, 2 * heads)).sigmoid().chunk(2, 1)
    out = delta_rule(
        q.unflatten(1, (layer.key_heads, -1)).repeat_interleave(share, 1),
        k.unflatten(1, (layer.key_heads, -1)).repeat_interleave(share, 1),
        v.unflatten(1, (heads, -1)),
        a[:, :, None, None],
        b[:, :, None, None],
    )
    (out * F.silu(gate)) @ weight(value, layer.hidden)


def kimi_delta_attention(layer: KimiDeltaAttention, x: Tensor, start: int) -> None:
    heads, inner, rank = layer.heads, layer.heads * layer.head_dim, layer.head_dim

    def gate(full_rank: bool) -> Tensor:
        if full_rank:
            return x @ weight(layer.hidden, inner)
        return x @ weight(layer.hidden, rank) @ weight(rank, inner)

    q, k, v = (
        causal_conv(x @ weight(layer.hidden, inner), layer.conv_kernel).unflatten(1, (heads, -1))
        for _ in range(3)
    )
    decay = gate(layer.full_rank_decay).sigmoid().unflatten(1, (heads, -1))[..., None]
    strength = (x @ weight(layer.hidden, heads)).sigmoid()[:, :, None, None]
    out = delta_rule(q, k, v, decay, strength) * gate(layer.full_rank_gate).sigmoid()
    out @ weight(inner, layer.hidden)


def jet_block(layer: JetBlock, x: Tensor, start: int) -> None:
    heads, kernel = layer.heads, layer.conv_kernel
    key, value = heads * layer.key_dim, heads * layer.value_dim
    q, k = (
        (x @ weight(layer.hidden, key)).unflatten(1, (heads, -1)),
        (x @ weight(layer.hidden, key)).unflatten(1, (heads, -1)),
    )
    v, gate = x @ weight(layer.hidden, value), x @ weight(layer.hidden, value)
    a, b = (x @ weight(layer.hidden, 2 * heads)).sigmoid().chunk(2, 1)
    width = value // layer.generator_reduction
    kernels = F.silu(x @ weight(layer.hidden, width)) @ weight(width, value * kernel)
    windows = F.pad(v, (0, 0, kernel - 1, 0)).unfold(0, kernel, 1)
    v = torch.stack(
        [
            (taps.unflatten(0, (value, kernel))[:, None] @ window[:, :, None]).flatten()
            for taps, window in zip(kernels, windows, strict=True)
        ]
    )
    out = delta_rule(q, k, v.unflatten(1, (heads, -1)), a[:, :, None, None], b[:, :, None, None])
    (out * F.silu(gate)) @ weight(value, layer.hidden)


def lightning_attention(layer: LightningAttention, x: Tensor, start: int) -> None:
    heads, inner = layer.heads, layer.heads * layer.head_dim
    q, k, v = (x @ weight(layer.hidden, 3 * inner)).unflatten(1, (3, heads, -1)).unbind(1)
    state, out = torch.zeros(heads, layer.head_dim, layer.head_dim), []
    for t in range(x.shape[0]):
        state = 0.9 * state + k[t][:, :, None] @ v[t][:, None]
        out.append((q[t][:, None] @ state).flatten())
    mixed = torch.stack(out)
    if layer.gated:
        mixed = mixed * (x @ weight(layer.hidden, inner)).sigmoid()
    mixed @ weight(inner, layer.hidden)


def short_convolution(layer: ShortConvolution, x: Tensor, start: int) -> None:
    before, after, u = (x @ weight(layer.hidden, 3 * layer.hidden)).chunk(3, 1)
    (after * causal_conv(before * u, layer.conv_kernel)) @ weight(layer.hidden, layer.hidden)


RUN: dict[type[LayerCost], Callable[..., None]] = {
    Attention: attention,
    LatentAttention: latent_attention,
    MLP: mlp,
    MixtureOfExperts: mixture_of_experts,
    Mamba1: mamba1,
    Mamba2: mamba2,
    GatedDeltaNet: gated_delta_net,
    KimiDeltaAttention: kimi_delta_attention,
    JetBlock: jet_block,
    LightningAttention: lightning_attention,
    ShortConvolution: short_convolution,
}
