"""One launch an operation and no waiting, which only a GPU can show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernel_states import FAMILIES, Pages, active_tensors, encodings_of
from marconi_kernels import Encoding, StateLayout, clear, load, reencode, store
from torch.profiler import ProfilerActivity, profile

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def operations() -> dict[str, Callable[[], None]]:
    device = torch.device("cuda")
    parts = FAMILIES["kimi-linear-split"].parts()
    layout = StateLayout(2, parts)
    active = [tensor.to(device) for tensor in active_tensors(parts, 2, 4, 1)]
    buffer, rows = Pages.of(layout, 4, device)
    slots = torch.tensor([3, 1], device=device)
    mixed = encodings_of([Encoding.EXACT, Encoding.INT8], device)
    here, there = rows[:2], rows[2:]
    return {
        **{
            f"store {encoding.name}": lambda encoding=encoding: store(
                active, slots, buffer, here, encoding, layout
            )
            for encoding in Encoding
        },
        "load": lambda: load(active, slots, buffer, here, mixed, layout),
        "reencode": lambda: reencode(buffer, here, Encoding.EXACT, there, Encoding.INT8, layout),
        "clear": lambda: clear(active, slots, layout),
    }


def test_each_operation_is_one_launch() -> None:
    for name, operation in operations().items():
        operation()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            operation()
            torch.cuda.synchronize()
        launched = [
            event.name
            for event in profiler.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
        ]
        assert len(launched) == 1, (name, launched)


def test_no_operation_waits_for_the_device() -> None:
    calls = operations()
    for operation in calls.values():
        operation()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for operation in calls.values():
            operation()
    finally:
        torch.cuda.set_sync_debug_mode("default")
