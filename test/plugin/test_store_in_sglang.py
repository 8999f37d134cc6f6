"""How the store of checkpoints is built into SGLang's pools, streams and memory saver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from marconi_kernels import Encoding
from sglang.srt import runtime_context
from sglang.srt.configs.mamba_utils import (
    KimiLinearCacheParams,
    KimiLinearStateShape,
    Mamba2StateDType,
)
from sglang.srt.constants import GPU_MEMORY_TYPE_KV_CACHE
from sglang.srt.mem_cache.memory_pool import MambaPool
from sglang_marconi import plugin
from sglang_marconi.cache import memory_split
from sglang_marconi.cache.checkpoint_pool import CheckpointPool
from sglang_marconi.cache.slot_states import state_layout
from sglang_marconi.pool import CheckpointStore, store_size
from sglang_marconi.settings.schema import Settings
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
SLOTS = 4


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
    layout = state_layout(slots, page_bytes=512)
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


# ---- memory saver ----


class Region(TorchDispatchMode):
    """Notes the bytes of what is allocated inside."""

    def __init__(self, saver: Saver) -> None:
        super().__init__()
        self.saver = saver

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.empty.memory_format:
            self.saver.allocated.append(result.nbytes)
        return result


class Saver:
    """A stand-in for SGLang's adapter of its memory saver."""

    def __init__(self) -> None:
        self.tags: list[str] = []
        self.allocated: list[int] = []

    @contextmanager
    def region(self, tag: str) -> Iterator[None]:
        self.tags.append(tag)
        with Region(self):
            yield


def test_the_memory_saver_has_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    saver, asked = Saver(), []
    pool = SimpleNamespace(mamba_pool=states(), mamba_ckpt_pool=None)

    def create(*, enable: bool) -> Saver:
        asked.append(enable)
        return saver

    monkeypatch.setattr(memory_split.TorchMemorySaverAdapter, "create", create)
    features = SimpleNamespace(enable_memory_saver=True)
    monkeypatch.setattr(memory_split, "get_exec", lambda: SimpleNamespace(features=features))
    builder = memory_split.StoreBuilder(
        Settings(checkpoint_memory=0.5, host_memory="1MB"), spared=0
    )
    builder._split = memory_split.MemorySplit(active_slots=2, store_bytes=1_000_000)
    builder.build_pool(None, pool)
    assert asked == [True]
    assert saver.tags == [GPU_MEMORY_TYPE_KV_CACHE]
    built: Any = pool.mamba_ckpt_pool
    store = built.store
    assert (store.pages + store.layout.pages(Encoding.EXACT)) * store.layout.page_bytes in (
        saver.allocated
    )


def test_the_store_is_at_rest_before_its_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = states()
    pool = pool_for(slots)
    finished = []
    monkeypatch.setattr(pool.store, "finish", lambda: finished.append(True))
    pool.release("manager", "request")
    assert finished == [True]
