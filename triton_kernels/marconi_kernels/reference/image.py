"""A state's image: its parts, each in its segment."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..encoding import Encoding
from ..layout import StateLayout, part_bytes
from .codec import decode_part, encode_part


def write_image(values: Sequence[Tensor], encoding: Encoding, layout: StateLayout) -> Tensor:
    """Encodes states.

    Args:
        values: for each part, `[n, layers, *shape]`.

    Returns:
        uint8 `[n, pages, page_bytes]`, zero where the image has padding.
    """
    count = values[0].shape[0]
    pages = layout.pages(encoding)
    image = values[0].new_zeros(count, pages * layout.page_bytes, dtype=torch.uint8)
    for value, part, segment in zip(values, layout.parts, layout.segments(encoding), strict=True):
        if value.numel():
            data = encode_part(value, encoding if part.lossy else Encoding.EXACT)
            layers = layout.layers_of(part)
            room = image[:, segment.start : segment.start + layers * segment.stride]
            torch.unflatten(room, 1, (layers, segment.stride))[..., : data.shape[-1]] = data
    return image.view(count, pages, layout.page_bytes)


def read_image(image: Tensor, encoding: Encoding, layout: StateLayout) -> list[Tensor]:
    """The reverse of `write_image`: the parts, each `[n, layers, *shape]` of its own dtype."""
    count = image.shape[0]
    flat = image.flatten(1)
    values = []
    for part, segment in zip(layout.parts, layout.segments(encoding), strict=True):
        layers = layout.layers_of(part)
        shape = (count, layers, *part.shape)
        if part.nbytes == 0:
            values.append(image.new_empty(shape, dtype=part.dtype))
            continue
        effective = encoding if part.lossy else Encoding.EXACT
        data = flat[:, segment.start : segment.start + layers * segment.stride]
        data = torch.unflatten(data, 1, (layers, segment.stride))
        used = part_bytes(part, effective)
        values.append(decode_part(data[..., :used], effective, part.shape, part.dtype))
    return values
