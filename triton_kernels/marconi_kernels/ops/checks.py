"""What every operation asks of its arguments. Nothing here reads a tensor's contents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..grouping import ALIGNMENT
from ..layout import StateLayout


def check_active(active: Sequence[Tensor], slots: Tensor, layout: StateLayout) -> None:
    """Raises `ValueError` unless `active` are the layout's parts and `slots` is int64 `[n]`."""
    if len(active) != len(layout.parts):
        raise ValueError(f"expected {len(layout.parts)} active tensors, got {len(active)}")
    for index, (tensor, part) in enumerate(zip(active, layout.parts, strict=True)):
        if (
            tensor.dtype != part.dtype
            or tensor.shape[:1] != (layout.layers_of(part),)
            or tensor.shape[2:] != part.shape
        ):
            raise ValueError(
                f"active tensor {index} must be {part.dtype} [{layout.layers_of(part)}, slots, "
                f"*{part.shape}], got {tensor.dtype} {list(tensor.shape)}"
            )
    if slots.dtype != torch.int64 or slots.dim() != 1 or not slots.is_contiguous():
        raise ValueError(
            f"slots must be contiguous int64 [n], got {slots.dtype} {list(slots.shape)}"
        )


def check_pages(pages: Tensor, layout: StateLayout) -> None:
    """Raises `ValueError` unless `pages` is contiguous uint8 `[num_pages, page_bytes]`."""
    if (
        pages.dtype != torch.uint8
        or pages.shape[1:] != (layout.page_bytes,)
        or not pages.is_contiguous()
        or pages.data_ptr() % ALIGNMENT
    ):
        raise ValueError(
            f"pages must be contiguous uint8 [num_pages, {layout.page_bytes}], aligned to "
            f"{ALIGNMENT} bytes, got {pages.dtype} {list(pages.shape)}"
        )


def check_rows(rows: Tensor, count: int, pages: int) -> None:
    """Raises `ValueError` unless `rows` is int32 `[count, at least pages]`, rows contiguous."""
    if (
        rows.dtype != torch.int32
        or rows.dim() != 2
        or rows.shape[0] != count
        or rows.shape[1] < pages
        or (rows.shape[1] > 1 and rows.stride(1) != 1)
    ):
        raise ValueError(
            f"page numbers must be int32 [{count}, {pages} or more], contiguous along the "
            f"second dimension, got {rows.dtype} {list(rows.shape)}"
        )


def check_encodings(encodings: Tensor, count: int) -> None:
    """Raises `ValueError` unless `encodings` is contiguous int32 `[count]`."""
    if (
        encodings.dtype != torch.int32
        or encodings.shape != (count,)
        or not encodings.is_contiguous()
    ):
        raise ValueError(
            f"encodings must be contiguous int32 [{count}], got {encodings.dtype} "
            f"{list(encodings.shape)}"
        )
