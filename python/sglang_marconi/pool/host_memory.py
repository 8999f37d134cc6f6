"""Host memory that a GPU copies to and from by itself."""

from __future__ import annotations

import logging
import mmap
import weakref
from typing import Any

import torch

logger = logging.getLogger(__name__)


class HostMemoryError(RuntimeError):
    """The host's memory cannot be made what the GPU needs."""


def host_pages(pages: int, page_bytes: int, *, cuda: Any | None) -> torch.Tensor:
    """uint8 ``[pages, page_bytes]`` on the host, in memory of just that size.

    torch's own pinned memory comes in powers of two: 70 GB of it take 128 GiB. This is mapped from
    the system and registered with CUDA, in one piece as no copy may span two, until the tensor is
    gone or the process ends.

    Args:
        cuda: ``torch.cuda``, or what stands in for it; ``None`` where there is none.

    Raises:
        HostMemoryError: CUDA does not register it; the message has its reason.
    """
    size = pages * page_bytes
    if not size:
        return torch.empty((pages, page_bytes), dtype=torch.uint8)
    # The tensor keeps the mapping, which begins where a page of the system's does.
    buffer = torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8).view(pages, page_bytes)
    if cuda is not None:
        _register(buffer, cuda.cudart())
    return buffer


def _register(buffer: torch.Tensor, cudart: Any) -> None:
    address, size = buffer.data_ptr(), buffer.nbytes
    failed = int(cudart.cudaHostRegister(address, size, 0))
    if failed:
        raise HostMemoryError(
            f"{size:,} bytes of host memory for checkpoints cannot be pinned: cudaHostRegister "
            f"returned {failed}, {cudart.cudaGetErrorString(failed)}. Is that much free, and does "
            "`ulimit -l` allow it?"
        )
    # Also as the process ends: what is registered then makes the system slow to end it.
    weakref.finalize(buffer, _unregister, cudart, address)


def _unregister(cudart: Any, address: int) -> None:
    failed = int(cudart.cudaHostUnregister(address))
    if failed:
        logger.warning("cudaHostUnregister returned %d for the memory of checkpoints", failed)
