"""States to move: shapes of public models, random active tensors, page buffers full of poison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from marconi_kernels import Encoding, StateLayout, StatePart
from torch import Tensor


class Family(NamedTuple):
    """One model's state, as SGLang's config classes give it for one rank."""

    layers: int
    windows: tuple[tuple[int, ...], ...]
    temporal: tuple[int, ...]

    def parts(self, temporal: torch.dtype = torch.float32) -> list[StatePart]:
        windows = [StatePart(shape, torch.bfloat16, False) for shape in self.windows]
        return [*windows, StatePart(self.temporal, temporal, True)]


FAMILIES = {
    "nemotron-h-8b": Family(24, ((10240, 3),), (128, 64, 128)),
    "nemotron-nano-9b-v2": Family(27, ((12288, 3),), (128, 80, 128)),
    "falcon-h1-7b": Family(44, ((3584, 3),), (24, 128, 256)),
    "granite-4.0-h-tiny": Family(36, ((3328, 3),), (48, 64, 128)),
    "granite-4.0-h-small": Family(36, ((8448, 3),), (128, 64, 128)),
    "qwen3-next-80b-a3b": Family(36, ((8192, 3),), (32, 128, 128)),
    "kimi-linear-48b-a3b": Family(20, ((3, 12288),), (32, 128, 128)),
    # the same with the three convolutions in tensors of their own
    "kimi-linear-split": Family(20, ((4096, 3),) * 3, (32, 128, 128)),
    "jet-nemotron": Family(2, ((4608, 3),), (12, 192, 96)),
    "ling-lightning": Family(16, ((0, 0),), (16, 128, 128)),
}
"""Hybrids with recurrent state."""

OTHERS = {
    "falcon-mamba-7b": Family(64, ((8192, 3),), (8192, 1, 16)),
    "lfm2-2.6b": Family(22, ((2048, 2),), (1, 2048, 0)),
    # CCA: windows of queries and keys, and the last hidden state
    "zaya1-base": Family(40, ((1280, 2), (2048, 1)), (1, 1, 0)),
}
"""A model of recurrent layers alone, and hybrids whose state is windows alone."""

BESIDE = (
    StatePart((96, 9), torch.bfloat16, False, layers=3),
    StatePart((2,), torch.int64, False, layers=1),
)
"""What Qwen4-Exp's PLE keeps beside a state: windows in other layers, and the last tokens."""

POISON = 0xA5


def active_tensors(parts: Sequence[StatePart], layers: int, slots: int, seed: int) -> list[Tensor]:
    """`[layers, slots, *shape]` of random bytes for parts kept bit for bit, of normal numbers for
    lossy ones; `layers` where a part does not say how many it has."""
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for part in parts:
        shape = (layers if part.layers is None else part.layers, slots, *part.shape)
        if part.lossy:
            tensors.append(torch.randn(shape, generator=generator).to(part.dtype))
        else:
            data = torch.empty(shape, dtype=part.dtype)
            raw = data.view(-1).view(torch.uint8)
            raw.copy_(torch.randint(0, 256, raw.shape, generator=generator, dtype=torch.uint8))
            tensors.append(data)
    return tensors


class Pages(NamedTuple):
    """A poisoned page buffer with pages drawn for some states, in random order."""

    buffer: Tensor
    rows: Tensor

    @classmethod
    def of(cls, layout: StateLayout, states: int, device: torch.device, seed: int = 0) -> Pages:
        generator = torch.Generator().manual_seed(seed)
        total = states * layout.max_pages
        order = torch.randperm(total + 3, generator=generator)[:total]
        buffer = torch.full((total + 3, layout.page_bytes), POISON, dtype=torch.uint8)
        rows = order.view(states, layout.max_pages).to(torch.int32)
        return cls(buffer.to(device), rows.to(device))

    def touched(self, layout: StateLayout, encoding: Encoding) -> Tensor:
        """Which pages, as a mask, `store` of all the states may write."""
        mask = torch.zeros(len(self.buffer), dtype=torch.bool, device=self.buffer.device)
        mask[self.rows[:, : layout.pages(encoding)].flatten().long()] = True
        return mask


def bits(tensor: Tensor) -> Tensor:
    """The tensor's bytes, for comparisons in which NaN equals itself and 0 is not -0."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def encodings_of(encodings: Sequence[Encoding], device: torch.device) -> Tensor:
    return torch.tensor([int(e) for e in encodings], dtype=torch.int32, device=device)
