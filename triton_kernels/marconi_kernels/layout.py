"""What the state of a hybrid model is made of, and how its encodings lie in pages of bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .encoding import Encoding
from .grouping import ALIGNMENT, Grouping, align

LOSSY_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

MIN_PAGE_BYTES = 512
_MAX_DEFAULT_PAGE_BYTES = 256 * 1024
_MAX_WASTE = 0.01


class StatePart(NamedTuple):
    """One tensor of the state, in one layer."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    lossy: bool
    """Whether encodings other than EXACT may round it: true of recurrent state, not of windows."""
    layers: int | None = None
    """In how many layers there is one, where that is not the layout's number: 1 for what a whole
    model has one of."""

    @property
    def nbytes(self) -> int:
        """Bytes of one layer."""
        return math.prod(self.shape) * self.dtype.itemsize


class Segment(NamedTuple):
    """Where a part lies in an encoded state: layer `l` starts at byte `start + l * stride`."""

    start: int
    stride: int


@dataclass(frozen=True, init=False)
class StateLayout:
    """The parts of a state in `layers` layers each, and the pages that hold its encodings.

    A state's encoding is an image of bytes, cut into pages of `page_bytes`. The parts kept bit
    for bit come first, so they lie in the same place in every encoding; then come the lossy ones.
    Each part has its layers one after the other, each starting at a multiple of 16 bytes.
    """

    layers: int
    parts: tuple[StatePart, ...]
    page_bytes: int

    def __init__(
        self, layers: int, parts: Sequence[StatePart], page_bytes: int | None = None
    ) -> None:
        """
        Args:
            layers: number of recurrent layers, at least 1.
            parts: the tensors of one layer. Lossy ones share one dtype of float32, float16 or
                bfloat16. Those that are not in just the recurrent layers have a number of their
                own, at least 1.
            page_bytes: a multiple of 16, at least 512. None: the largest power of two up to
                256 KiB with which no encoding wastes more than 1 % in its last page, or 512.

        Raises:
            ValueError: an argument is not as described.
        """
        for number in (layers, *(part.layers for part in parts)):
            if number is not None and number < 1:
                raise ValueError(f"a layout needs at least one layer, got {number}")
        lossy = {part.dtype for part in parts if part.lossy}
        if len(lossy) > 1 or not lossy.issubset(LOSSY_DTYPES):
            raise ValueError(
                f"lossy parts must share one dtype of {list(LOSSY_DTYPES)}, got {list(lossy)}"
            )
        object.__setattr__(self, "layers", layers)
        object.__setattr__(
            self, "parts", tuple(part._replace(shape=tuple(part.shape)) for part in parts)
        )
        if page_bytes is None:
            page_bytes = self._default_page_bytes()
        elif page_bytes < MIN_PAGE_BYTES or page_bytes % ALIGNMENT:
            raise ValueError(
                f"page_bytes must be a multiple of {ALIGNMENT}, at least {MIN_PAGE_BYTES}, "
                f"got {page_bytes}"
            )
        object.__setattr__(self, "page_bytes", page_bytes)

    @classmethod
    def of(
        cls, tensors: Sequence[Tensor], lossy: Sequence[bool], page_bytes: int | None = None
    ) -> StateLayout:
        """The layout of active tensors, each `[layers, slots, *shape]`, with `lossy` for each.

        The first one's number of layers is the layout's.

        Raises:
            ValueError: there is no tensor, or what `StateLayout` raises.
        """
        if not tensors:
            raise ValueError("a layout needs at least one active tensor")
        layers = tensors[0].shape[0]
        parts = [
            StatePart(
                tuple(tensor.shape[2:]),
                tensor.dtype,
                may_round,
                None if tensor.shape[0] == layers else tensor.shape[0],
            )
            for tensor, may_round in zip(tensors, lossy, strict=True)
        ]
        return cls(layers, parts, page_bytes)

    def layers_of(self, part: StatePart) -> int:
        """In how many layers a part is."""
        return self.layers if part.layers is None else part.layers

    @property
    def state_bytes(self) -> int:
        """Bytes of a state in the active tensors."""
        return sum(self.layers_of(part) * part.nbytes for part in self.parts)

    @property
    def order(self) -> list[int]:
        """Indices of `parts` as an image has them: those kept bit for bit, then the lossy ones."""
        return sorted(range(len(self.parts)), key=lambda index: self.parts[index].lossy)

    def encoded_bytes(self, encoding: Encoding) -> int:
        """Bytes of the image of a state in `encoding`, a multiple of 16."""
        return self._images[encoding][1]

    def pages(self, encoding: Encoding) -> int:
        """Pages that a state in `encoding` takes."""
        return -(-self.encoded_bytes(encoding) // self.page_bytes)

    @property
    def max_pages(self) -> int:
        """Pages that a state takes in the largest encoding."""
        return max(self.pages(encoding) for encoding in Encoding)

    def segments(self, encoding: Encoding) -> tuple[Segment, ...]:
        """Where each of `parts` lies in the image of a state in `encoding`."""
        return self._images[encoding][0]

    @cached_property
    def _images(self) -> dict[Encoding, tuple[tuple[Segment, ...], int]]:
        return {encoding: self._image(encoding) for encoding in Encoding}

    def _image(self, encoding: Encoding) -> tuple[tuple[Segment, ...], int]:
        """The segments of the parts and the bytes in all."""
        segments: dict[int, Segment] = {}
        end = 0
        for index in self.order:
            part = self.parts[index]
            stride = align(part_bytes(part, encoding))
            segments[index] = Segment(end, stride)
            end += self.layers_of(part) * stride
        return tuple(segments[index] for index in range(len(self.parts))), end

    def _default_page_bytes(self) -> int:
        sizes = [self.encoded_bytes(encoding) for encoding in Encoding]
        page = _MAX_DEFAULT_PAGE_BYTES
        while page > MIN_PAGE_BYTES and any(-size % page > _MAX_WASTE * size for size in sizes):
            page //= 2
        return page


def part_bytes(part: StatePart, encoding: Encoding) -> int:
    """Bytes of one layer of `part` in `encoding`, before padding."""
    if part.nbytes == 0 or not part.lossy or encoding == Encoding.EXACT:
        return part.nbytes
    if encoding == Encoding.BF16:
        return 2 * math.prod(part.shape)
    grouping = Grouping.of(part.shape)
    return grouping.records * grouping.record_bytes
