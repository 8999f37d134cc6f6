"""Mamba2's scan over some pass, as SGLang's mixer calls it, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from sglang_marconi.forward.plan import PassPlan, carried_out
from sglang_marconi.forward.scan import take_scanned
from torch import Tensor

from support.mamba_reference import ScanInput
from support.passes import SomePass

HEADS, HEADDIM, DSTATE, LAYER = 4, 6, 5, 7


class Scanned(NamedTuple):
    """Output ``[tokens, heads, headdim]``, states at ends of chunks, of rows, tracked by SGLang."""

    out: Tensor
    intermediate: Tensor
    last: Tensor
    tracked: Tensor | None


class Layer(NamedTuple):
    """Its inputs in a pass, and the states that rows go on from: ``[slots, ...]``."""

    inputs: ScanInput
    before: Tensor

    @classmethod
    def of(cls, some: SomePass, seed: int, padding: int = 0) -> Layer:
        shape = (some.slots, HEADS, HEADDIM, DSTATE)
        before = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))
        return cls(
            ScanInput.random(some.tokens + padding, HEADS, HEADDIM, 2, DSTATE, seed), before * 3
        )


def scanned(
    operation: Callable[..., Any],
    inputs: ScanInput,
    lengths: list[int],
    initial: Tensor | None,
    chunk_size: int = 64,
    **asked: Any,
) -> Scanned:
    """What ``mamba_chunk_scan_combined`` gives for rows of these lengths."""
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    out = torch.full_like(inputs.x, float("nan"))
    rows = torch.arange(len(lengths), dtype=torch.int32)
    chunks = logical_chunks(bounds.tolist(), chunk_size) if initial is not None else (None, None)
    intermediate, last, tracked = operation(
        inputs.x, inputs.dt, inputs.A, inputs.B, inputs.C, chunk_size=chunk_size, D=inputs.D,
        z=None, dt_bias=inputs.dt_bias, initial_states=initial,
        seq_idx=rows.repeat_interleave(bounds.diff())[None],
        chunk_indices=chunks[0], chunk_offsets=chunks[1], cu_seqlens=bounds, dt_softplus=True,
        out=out, return_varlen_states=True, return_track_states=True,
        state_dtype=torch.float32, **asked,
    )  # fmt: skip
    return Scanned(out[0], intermediate, last, tracked)


def logical_chunks(bounds: list[int], chunk_size: int) -> tuple[Tensor, Tensor]:
    """int32 each: the chunk, and the token of it, at which a chunk's part of a row begins."""
    begins = sorted({*range(0, bounds[-1], chunk_size), *bounds[:-1]})
    found = [divmod(begin, chunk_size) for begin in begins]
    return (
        torch.tensor([chunk for chunk, _ in found], dtype=torch.int32),
        torch.tensor([offset for _, offset in found], dtype=torch.int32),
    )


def initial_states(some: SomePass, before: Tensor) -> Tensor | None:
    """None where no row goes on from others, as in SGLang's mixer."""
    if not some.resumed.any():
        return None
    return torch.where(some.resumed[:, None, None, None], before[some.live], 0)


def taken(
    operation: Callable[..., Any],
    some: SomePass,
    layer: Layer,
    plan: PassPlan | None = None,
    **asked: Any,
) -> tuple[Scanned, Tensor]:
    """The scan with its states taken, and the pool that they are in."""
    pool = layer.before.clone()
    plan = plan or some.plan()
    plan.at_layer(LAYER, SimpleNamespace(temporal=pool))
    initial = initial_states(some, layer.before)
    with carried_out(plan):
        hooked = partial(take_scanned, operation)
        return scanned(hooked, layer.inputs, some.lengths, initial, **asked), pool


def of_prefixes(
    operation: Callable[..., Any], some: SomePass, layer: Layer, **asked: Any
) -> list[Tensor]:
    """The state at each place, of a scan that ends there."""
    found = []
    for at in some.prefixes():
        held = layer.before[some.live[at.row]][None] if at.resumes else None
        part = layer.inputs.part(at.begin, at.end)
        found.append(scanned(operation, part, [at.end - at.begin], held, **asked).last[0])
    return found
