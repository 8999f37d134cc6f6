"""The operations on states, for any strides of the active tensors.

Arguments are those of the operations in `ops`, and are not checked.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..encoding import Encoding
from ..layout import StateLayout
from .image import read_image, write_image


def store_torch(
    active: Sequence[Tensor],
    slots: Tensor,
    pages: Tensor,
    rows: Tensor,
    encoding: Encoding,
    layout: StateLayout,
) -> None:
    """`store`, which fills padding with zeros."""
    values = [tensor[:, slots].transpose(0, 1) for tensor in active]
    pages[rows[:, : layout.pages(encoding)].long()] = write_image(values, encoding, layout)


def load_torch(
    active: Sequence[Tensor],
    slots: Tensor,
    pages: Tensor,
    rows: Tensor,
    encodings: Tensor,
    layout: StateLayout,
) -> None:
    """`load`, which waits for the device: it reads `encodings`."""
    for encoding in Encoding:
        chosen = (encodings == encoding).nonzero().squeeze(1)
        if not len(chosen):
            continue
        image = pages[rows[chosen, : layout.pages(encoding)].long()]
        for tensor, values in zip(active, read_image(image, encoding, layout), strict=True):
            tensor[:, slots[chosen]] = values.transpose(0, 1)


def reencode_torch(
    pages: Tensor,
    source_rows: Tensor,
    source: Encoding,
    target_rows: Tensor,
    target: Encoding,
    layout: StateLayout,
) -> None:
    """`reencode`, which fills padding with zeros."""
    image = pages[source_rows[:, : layout.pages(source)].long()]
    values = read_image(image, source, layout)
    pages[target_rows[:, : layout.pages(target)].long()] = write_image(values, target, layout)


def clear_torch(active: Sequence[Tensor], slots: Tensor) -> None:
    """`clear`."""
    for tensor in active:
        tensor[:, slots] = 0
