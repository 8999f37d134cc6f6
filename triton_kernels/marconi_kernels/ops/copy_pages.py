"""Pages from one buffer to another, for a tier of pages in host memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def copy_pages(
    source: Tensor, source_pages: Sequence[int], target: Tensor, target_pages: Sequence[int]
) -> None:
    """Copies page `source_pages[i]` of `source` to page `target_pages[i]` of `target`.

    Pages that neighbour each other in both buffers go in one copy. Where one buffer is pinned
    host memory and the other on a device, the copies are only enqueued on the current stream:
    the caller waits for it before it reads or reuses either side.

    Args:
        source, target: uint8 `[num_pages, page_bytes]`, contiguous, with the same `page_bytes`;
            one buffer only if no page is on both sides.
        source_pages, target_pages: page numbers on the host, as many of each.

    Raises:
        ValueError: a dtype, shape or number of pages is not as described.
        IndexError: a page number is outside its buffer.
    """
    for buffer in (source, target):
        if buffer.dtype != torch.uint8 or buffer.dim() != 2 or not buffer.is_contiguous():
            raise ValueError(
                f"page buffers must be contiguous uint8 [num_pages, page_bytes], got "
                f"{buffer.dtype} {list(buffer.shape)}"
            )
    if source.shape[1] != target.shape[1] or len(source_pages) != len(target_pages):
        raise ValueError(
            f"cannot copy {len(source_pages)} pages of {source.shape[1]} bytes to "
            f"{len(target_pages)} pages of {target.shape[1]} bytes"
        )
    for buffer, numbers in ((source, source_pages), (target, target_pages)):
        if len(numbers) and not 0 <= min(numbers) <= max(numbers) < len(buffer):
            raise IndexError(f"page numbers must be from 0 to {len(buffer) - 1}")
    for start, stop in _runs(source_pages, target_pages):
        here, there, count = source_pages[start], target_pages[start], stop - start
        target[there : there + count].copy_(source[here : here + count], non_blocking=True)


def _runs(source: Sequence[int], target: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of indices along which both sequences count up by one."""
    start = 0
    for index in range(1, len(source) + 1):
        if (
            index == len(source)
            or source[index] != source[index - 1] + 1
            or target[index] != target[index - 1] + 1
        ):
            yield start, index
            start = index
