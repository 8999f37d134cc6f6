"""How and where kernels run: their sizes, warps and grid, and what they are compiled with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layout import MIN_PAGE_BYTES

F = TypeVar("F", bound=Callable[..., Any])

BLOCK_BYTES = 16 * 1024
"""Most bytes that a program moves as they are."""

NARROW_STEP = 2048
"""Bytes that it moves at a time where they are not aligned."""

TILE_ELEMENTS = 4096
"""Most elements that a program encodes or decodes. A thread then needs few enough registers that
several programs share a multiprocessor, which hides the latency of the look-ups before each copy.
"""

MAX_TILE_COLUMNS = MIN_PAGE_BYTES // 4
"""A tile's row then spans two pages at most, in any encoding of up to 4 bytes an element."""

FLAGS = {"enable_fp_fusion": False, "num_warps": 8}
"""Launch options. A fused multiply-add would round once where the encodings round twice."""

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


def launch(
    kernel: Any, states: int, items: int, first: Tensor, *arguments: object, **constants: object
) -> None:
    """Runs one program an item and state, on the device of the kernel's `first` argument.

    The items of a state follow each other; `state_and_item` tells a program which it is.
    """
    if states * items == 0:
        return
    # Triton launches on the current device.
    with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
        kernel[(states * items,)](first, *arguments, **constants, **FLAGS)


@device_function
def state_and_item(items: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Which state and which of its `items` this program works on."""
    return tl.program_id(0) // items, tl.program_id(0) % items
