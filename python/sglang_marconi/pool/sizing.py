"""How many pages the bytes of a store give."""

from __future__ import annotations

from typing import NamedTuple

from marconi_kernels import Encoding, StateLayout


class StoreSizeError(ValueError):
    """The bytes do not do for a store."""


class StoreSize(NamedTuple):
    """Pages on the device, of which ``reserved_pages`` are kept back, and on the host."""

    device_pages: int
    reserved_pages: int
    host_pages: int


def store_size(
    layout: StateLayout, device_bytes: int, *, lossy: Encoding | None = None, host_bytes: int = 0
) -> StoreSize:
    """The size of a store in so many bytes.

    Pages are kept back for what may not fail: for the target of a demotion, and for a state on
    its way from the host.

    Raises:
        StoreSizeError: not one checkpoint fits beside them; the message has the numbers.
    """
    exact = layout.pages(Encoding.EXACT)
    reserved = 0 if lossy is None else layout.pages(lossy)
    host_pages = host_bytes // layout.page_bytes
    if host_bytes:
        moved = exact if lossy is None else layout.pages(lossy)
        reserved = max(reserved, moved)
        if host_pages < moved:
            raise StoreSizeError(
                f"{host_bytes:,} bytes of host memory do not hold one checkpoint of "
                f"{moved * layout.page_bytes:,} bytes"
            )
    pages = device_bytes // layout.page_bytes
    if pages < exact + reserved:
        raise StoreSizeError(
            f"{device_bytes:,} bytes for checkpoints do not hold one of "
            f"{exact * layout.page_bytes:,} bytes"
            + (f" beside {reserved * layout.page_bytes:,} for moving them" if reserved else "")
        )
    return StoreSize(pages, reserved, host_pages)
