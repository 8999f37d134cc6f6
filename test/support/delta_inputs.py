"""Inputs of delta rules that remember for a while: a wrong beginning is still seen at the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

HEADS, VALUE_HEADS, KEY_DIM, VALUE_DIM = 1, 2, 16, 8
SIZES = (VALUE_HEADS, VALUE_DIM, KEY_DIM)


def gdn_inputs(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """``q, k, v, g, beta``, each ``[tokens, ...]``; one head forgets slowly, one faster."""
    generator = torch.Generator().manual_seed(seed)
    vectors = _vectors(tokens, generator, dtype)
    rates = torch.tensor([2e-3, 5e-2])
    decays = -rates * (0.5 + torch.rand(tokens, VALUE_HEADS, generator=generator))
    return [*vectors, decays, torch.rand(tokens, VALUE_HEADS, generator=generator)]


def kda_inputs(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """``q, k, v``, and of the gates what they are made from."""
    generator = torch.Generator().manual_seed(seed)
    vectors = _vectors(tokens, generator, dtype)
    gates = torch.randn(tokens, VALUE_HEADS, KEY_DIM, generator=generator) * 2 - 4
    strengths = torch.randn(tokens, VALUE_HEADS, generator=generator) * 2
    return [*vectors, gates.to(dtype), strengths.to(dtype)]


def layer_of_kda() -> dict[str, Any]:
    """Parameters of a layer, in SGLang's shapes."""
    generator = torch.Generator().manual_seed(8)
    return {
        "A_log": torch.tensor([0.05, 0.6]).log().view(1, 1, VALUE_HEADS, 1),
        "dt_bias": torch.randn(VALUE_HEADS * KEY_DIM, generator=generator),
    }


def _vectors(tokens: int, generator: torch.Generator, dtype: torch.dtype) -> list[Tensor]:
    keys = [torch.randn(tokens, HEADS, KEY_DIM, generator=generator) * 3 for _ in range(2)]
    values = torch.randn(tokens, VALUE_HEADS, VALUE_DIM, generator=generator)
    return [each.to(dtype) for each in (*keys, values)]
