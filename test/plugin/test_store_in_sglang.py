"""How the store of checkpoints is built into SGLang's pools, streams and memory saver."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from marconi_kernels import Encoding, StateLayout
from sglang.srt import runtime_context
from sglang.srt.configs.mamba_utils import (
    KimiLinearCacheParams,
    KimiLinearStateShape,
    Mamba2StateDType,
)
from sglang.srt.mem_cache.memory_pool import MambaPool
from sglang_marconi import plugin
from sglang_marconi.cache.checkpoint_pool import CheckpointPool, active_tensors
from sglang_marconi.config import Settings
from sglang_marconi.pool import CheckpointStore, store_size

CPU = torch.device("cpu")
SLOTS = 4
STORE = Settings(checkpoint_memory=0.5)


def cache_params() -> Any:
    shape = KimiLinearStateShape.create(
        tp_world_size=1, num_heads=2, head_dim=16, num_k_heads=2, head_k_dim=16
    )
    types = Mamba2StateDType(conv=torch.float32, temporal=torch.float32)
    return KimiLinearCacheParams(shape=shape, layers=[0, 2], dtype=types)


def states(**options: Any) -> MambaPool:
    return MambaPool(
        size=SLOTS,
        spec_state_size=SLOTS,
        cache_params=cache_params(),
        mamba_layer_ids=[0, 2],
        device="cpu",
        **options,
    )


def pool_for(slots: MambaPool) -> CheckpointPool:
    tensors = active_tensors(slots)
    layout = StateLayout.of(tensors, [*[False] * (len(tensors) - 1), True], page_bytes=512)
    size = store_size(layout, 3 * layout.pages(Encoding.EXACT) * 512)
    return CheckpointPool(CheckpointStore(layout, size, device=CPU))


# ---- streams ----


@pytest.mark.parametrize(
    ("device", "overlap", "stream"),
    [("cuda", True, "forward"), ("cuda", False, None), ("cpu", True, None), ("cpu", False, None)],
)
def test_the_store_works_on_the_stream_of_forward_passes(
    device: str, overlap: bool, stream: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = SimpleNamespace(disable_overlap_schedule=not overlap)
    monkeypatch.setattr(runtime_context, "get_schedule", lambda: schedule)
    runner = SimpleNamespace(device=device, forward_stream="forward")
    ctx: Any = SimpleNamespace(tp_worker=SimpleNamespace(model_runner=runner))
    assert plugin.stream_of_requests(ctx) == stream


# ---- what a slot holds ----


def test_a_load_leaves_no_replay_behind() -> None:
    slots = states(enable_linear_replayssm=True)
    pool = pool_for(slots)
    pool.attach(slots, None)
    assert slots.replayssm_write_pos is not None
    checkpoint = pool.alloc()
    assert checkpoint is not None
    pool.store_from_active(slots, torch.tensor([1]), checkpoint)
    # What the request before left in its ring.
    slots.replayssm_write_pos.fill_(5)
    pool.load_to_active(slots, checkpoint.repeat(2), torch.tensor([3, 2]))
    assert slots.replayssm_write_pos.tolist() == [5, 5, 0, 0, 5]
