"""The encodings: tensors of values to bytes and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..encoding import LARGEST, SMALLEST_SCALE, Encoding
from ..grouping import Grouping


def encode_part(values: Tensor, encoding: Encoding) -> Tensor:
    """`values`, `[n, layers, *shape]` of a lossy part with elements, as bytes.

    Returns uint8 `[n, layers, bytes]`, as one segment of the image for each layer.
    """
    flat = values.contiguous().flatten(2)
    if encoding == Encoding.EXACT or (encoding == Encoding.BF16 and flat.dtype.itemsize == 2):
        return flat.view(torch.uint8)
    if encoding == Encoding.BF16:
        return flat.to(torch.bfloat16).view(torch.uint8)
    grouping = Grouping.of(tuple(values.shape[2:]))
    codes, scales = quantize(_to_groups(flat.float(), grouping), encoding)
    coded = F.pad(codes.flatten(-2), (0, grouping.codes_bytes - codes.shape[-2:].numel()))
    scaled = scales.contiguous().view(torch.uint8)
    scaled = F.pad(scaled, (0, grouping.record_bytes - grouping.codes_bytes - scaled.shape[-1]))
    return torch.cat([coded, scaled], dim=-1).flatten(2)


def decode_part(
    data: Tensor, encoding: Encoding, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """The reverse of `encode_part`: uint8 `[n, layers, bytes]` to `[n, layers, *shape]`."""
    data = data.contiguous()
    if encoding == Encoding.EXACT or (encoding == Encoding.BF16 and dtype.itemsize == 2):
        flat = data.view(dtype)
    elif encoding == Encoding.BF16:
        flat = data.view(torch.bfloat16).to(dtype)
    else:
        grouping = Grouping.of(shape)
        records = torch.unflatten(data, 2, (grouping.records, grouping.record_bytes))
        codes = records[..., : grouping.group_rows * grouping.columns]
        scales = records[..., grouping.codes_bytes :][..., : 4 * grouping.columns]
        groups = dequantize(
            torch.unflatten(codes, -1, (grouping.group_rows, grouping.columns)),
            scales.contiguous().view(torch.float32),
            encoding,
        )
        flat = _from_groups(groups, grouping).to(dtype)
    return torch.unflatten(flat, 2, shape)


def quantize(values: Tensor, encoding: Encoding) -> tuple[Tensor, Tensor]:
    """One byte an element for float32 `[..., rows, columns]`, and the scales `[..., columns]`.

    The codes are uint8: the bits of an int8 or of an e4m3 number. The reciprocal of the scale is
    rounded before it multiplies, so a value within 1e-5 steps of a tie may go either way.
    """
    largest = values.abs().amax(dim=-2)
    finite = largest.isfinite()
    scales = torch.clamp_min(largest * (1 / LARGEST[encoding]), SMALLEST_SCALE)
    steps = values * scales.reciprocal().unsqueeze(-2)
    steps = torch.where(finite.unsqueeze(-2), steps, 0.0)
    scales = torch.where(finite, scales, torch.nan)
    if encoding == Encoding.INT8:
        return steps.round().to(torch.int8).view(torch.uint8), scales
    return steps.to(torch.float8_e4m3fn).view(torch.uint8), scales


def dequantize(codes: Tensor, scales: Tensor, encoding: Encoding) -> Tensor:
    """The reverse of `quantize`: float32 `[..., rows, columns]`."""
    dtype = torch.int8 if encoding == Encoding.INT8 else torch.float8_e4m3fn
    return codes.contiguous().view(dtype).float() * scales.unsqueeze(-2)


def _to_groups(flat: Tensor, grouping: Grouping) -> Tensor:
    """`[n, layers, elements]` to `[n, layers, records, group_rows, columns]`, padded with zeros."""
    heads = torch.unflatten(flat, 2, (grouping.heads, grouping.rows, grouping.columns))
    padding = grouping.groups * grouping.group_rows - grouping.rows
    padded = F.pad(heads, (0, 0, 0, padding))
    return torch.unflatten(padded, 3, (grouping.groups, grouping.group_rows)).flatten(2, 3)


def _from_groups(groups: Tensor, grouping: Grouping) -> Tensor:
    """The reverse of `_to_groups`."""
    heads = torch.unflatten(groups, 2, (grouping.heads, grouping.groups)).flatten(3, 4)
    return heads[:, :, :, : grouping.rows].flatten(2)
