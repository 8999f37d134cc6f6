"""States in pages from one encoding to another."""

from __future__ import annotations

from torch import Tensor

from .checks import check_pages, check_rows
from .image import read_image, write_image
from .layout import Encoding, StateLayout


def reencode(
    pages: Tensor,
    source_rows: Tensor,
    source: Encoding,
    target_rows: Tensor,
    target: Encoding,
    layout: StateLayout,
) -> None:
    """Writes states in another encoding, to other pages. One launch; does not wait for the device.

    The result is what loading a state and storing it in `target` would give.

    Args:
        pages: uint8 `[num_pages, page_bytes]`, contiguous.
        source_rows: int32 `[n, at least layout.pages(source)]`, the pages of each state in order.
        source: what they are encoded in.
        target_rows: int32 `[n, at least layout.pages(target)]`, where each goes. No page may
            occur twice, nor be a source page.
        target: another encoding than `source`.

    Page numbers are not checked. Bytes of a page that are padding may be written.

    Raises:
        ValueError: the encodings are the same, or a dtype or shape is not as described.
    """
    if source == target:
        raise ValueError(f"states are in {source.name} already")
    check_pages(pages, layout)
    check_rows(source_rows, len(target_rows), layout.pages(source))
    check_rows(target_rows, len(source_rows), layout.pages(target))
    reencode_torch(pages, source_rows, source, target_rows, target, layout)


def reencode_torch(
    pages: Tensor,
    source_rows: Tensor,
    source: Encoding,
    target_rows: Tensor,
    target: Encoding,
    layout: StateLayout,
) -> None:
    """`reencode` in torch operations."""
    image = pages[source_rows[:, : layout.pages(source)].long()]
    values = read_image(image, source, layout)
    pages[target_rows[:, : layout.pages(target)].long()] = write_image(values, target, layout)
