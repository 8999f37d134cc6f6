"""How and where kernels run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import triton
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether TRITON_INTERPRET was set when triton was imported: kernels then run on the CPU."""

device_function: Callable[[F], F] = triton.jit
"""For functions that kernels call. Triton's own decorator has no types."""


def kernel(function: Callable[..., None]) -> Any:
    """`triton.jit` for kernels, compiled once whatever the size and alignment of these inputs."""
    return triton.jit(
        do_not_specialize=["row_stride", "source_stride", "target_stride"],
        do_not_specialize_on_alignment=[
            "slots", "rows", "encodings", "source_rows", "target_rows",
        ],
    )(function)  # fmt: skip


def runs_kernels(tensor: Tensor) -> bool:
    """Whether kernels, not torch's operations, are to work on `tensor` and those beside it."""
    return tensor.is_cuda != INTERPRETED


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's device the current one, on which Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
