"""Transformers' delta rules, token by token, and inputs for them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers.models.kimi_linear.modeling_kimi_linear import recurrent_kimi_delta_attention
from transformers.models.qwen3_next.modeling_qwen3_next import torch_recurrent_gated_delta_rule


@dataclass(frozen=True)
class DeltaInput:
    """What a delta rule is given, one row of tokens: queries and keys of any length."""

    q: Tensor  # (1, tokens, heads, key_dim)
    k: Tensor
    v: Tensor  # (1, tokens, value_heads, value_dim)
    g: Tensor  # (1, tokens, value_heads) or (1, tokens, value_heads, key_dim)
    beta: Tensor  # (1, tokens, value_heads)

    @classmethod
    def random(
        cls,
        tokens: int,
        channels: bool,
        heads: int = 2,
        value_heads: int = 4,
        key_dim: int = 8,
        value_dim: int = 6,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> DeltaInput:
        """With decays from hardly any to all but everything."""
        torch.manual_seed(seed)
        q, k = (torch.randn(1, tokens, heads, key_dim) * 3 for _ in range(2))
        decays = (1, tokens, value_heads, key_dim) if channels else (1, tokens, value_heads)
        return cls(
            q=q.to(dtype),
            k=k.to(dtype),
            v=torch.randn(1, tokens, value_heads, value_dim).to(dtype),
            g=-(10 ** torch.empty(decays).uniform_(-4, 1)),
            beta=torch.rand(1, tokens, value_heads),
        )

    def part(self, begin: int, end: int) -> DeltaInput:
        return DeltaInput(*(getattr(self, f.name)[:, begin:end] for f in fields(self)))


def scan_one(inputs: DeltaInput, initial: Tensor) -> tuple[Tensor, Tensor]:
    """Output ``(tokens, value_heads, value_dim)`` and last state ``(.., value_dim, key_dim)``."""
    shared = inputs.v.shape[2] // inputs.q.shape[2]
    rule = (
        torch_recurrent_gated_delta_rule if inputs.g.dim() == 3 else recurrent_kimi_delta_attention
    )
    output, state = rule(
        inputs.q.float().repeat_interleave(shared, 2),
        inputs.k.float().repeat_interleave(shared, 2),
        inputs.v.float(),
        inputs.g,
        inputs.beta,
        initial_state=initial.float().transpose(-1, -2)[None],
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    return output[0], state[0].transpose(-1, -2)


def largest_error(ours: Tensor, wanted: Tensor) -> float:
    """Of any element, in parts of the largest one that is wanted."""
    if ours.shape != wanted.shape:
        return float("inf")
    if not wanted.numel():
        return 0.0
    difference = (ours.double() - wanted.double()).abs().max()
    return float(difference / wanted.double().abs().max().clamp(min=1e-30))
