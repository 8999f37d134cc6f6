"""What SGLang takes for granted of a machine: here there is no accelerator to ask.

Functions for ``surroundings``, which says what each stands in for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def supports_extra_buffer() -> bool:
    """The CPU can keep copies of recurrent states, once their functions are replaced."""
    return True


def find_no_library() -> str:
    """Tell the communicator, which asks for NCCL and can do without, that there is none."""
    raise OSError("NCCL needs an accelerator")


def stay_pageable(tensor: Tensor, _device: object = None) -> Tensor:
    """The tensor itself: without a device to copy to there is nothing to pin memory for."""
    return tensor


def set_conv_dtype(_result: None, config: Any, *_args: object, **_kwargs: object) -> None:
    """Keep convolution states in the model's own dtype unless the environment asks for another.

    Runs after a model's configuration is read, which is before any state is allocated and, in the
    launching process, before the other processes are started.
    """
    name = str(config.dtype).removeprefix("torch.")
    if name in ("float32", "float16", "bfloat16"):
        os.environ.setdefault("SGLANG_MAMBA_CONV_DTYPE", name)


def keep_inkling_in_conv_dtype(original: Callable[..., None], dtypes: Any, **given: Any) -> None:
    """`InklingStateDType.__init__` with the dtype that other models' convolution states have."""
    from sglang.srt.configs.mamba_utils import mamba2_state_dtype

    original(dtypes, **{**given, "conv": mamba2_state_dtype().conv})


def absorb_latent_attention(_layer: object, _batch: object) -> Any:
    """Multi-head latent attention as matrix products in torch, whatever the batch."""
    from sglang.srt.models.deepseek_common.attention_forward_methods.forward_methods import (
        AttnForwardMethod,
    )

    return AttnForwardMethod.MLA


def device_module(original: Callable[..., Any], device: object = None) -> Any:
    """Torch's module of a device; of the one that a machine has, where none is named, the CPU's."""
    return torch.cpu if device is None else original(device)


def multiply(original: Callable[..., Tensor], *factors: Tensor, **options: Any) -> Tensor:
    """A product of matrices; where a type is named for it, it is computed in that type."""
    out_dtype = options.pop("out_dtype", None)
    if out_dtype is not None:
        factors = tuple(factor.to(out_dtype) for factor in factors)
    return original(*factors, **options)


def rotary_embedding(
    head_size: int,
    rotary_dim: int,
    max_position: int,
    base: int,
    is_neox_style: bool = True,
    rope_scaling: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    partial_rotary_factor: float = 1.0,
    device: str | None = None,
) -> Any:
    """The rotary embedding that any other device gets; it runs on a CPU as well."""
    from sglang.srt.layers.rotary_embedding.factory import get_rope

    return get_rope(
        head_size,
        rotary_dim,
        max_position,
        base,
        is_neox_style,
        rope_scaling,
        dtype,
        partial_rotary_factor,
    )


def get_device(device_id: int | None = None) -> str:
    """The device that this machine has; whatever its number."""
    return "cpu"


def rotate(
    self: Any,
    positions: Tensor,
    query: Tensor,
    key: Tensor,
    offsets: Tensor | None = None,
    fused_set_kv_buffer_arg: object = None,
) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys with what SGLang has in torch."""
    rotated: tuple[Tensor, Tensor] = self.forward_native(positions, query, key, offsets)
    return rotated


def without_tilelang() -> bool:
    """Its kernels are for accelerators; beside each of them SGLang has one in torch."""
    return False


class NoStream:
    """Stands for a stream where there is none: everything happens in order."""

    def __init__(self, *_args: object, **_options: object) -> None: ...


def mix_in_model_dtype(_result: None, residual: Any, *_args: object, **_kwargs: object) -> None:
    """Weights and results of a gated residual in the dtype that the model is built in."""
    residual.params_dtype = torch.get_default_dtype()
    residual.to(residual.params_dtype)


def embed_in_model_dtype(_result: None, layer: Any, *_args: object, **_kwargs: object) -> None:
    """The same for embeddings of n-grams."""
    layer.ngram_embedding.output_dtype = torch.get_default_dtype()
    layer.ngram_embedding.to(layer.ngram_embedding.output_dtype)


def score_in_model_dtype(_result: None, model: Any, *_args: object, **_kwargs: object) -> None:
    """The same for a language model's output head."""
    model.lm_head.to(torch.get_default_dtype())
