"""How the store of checkpoints is built into SGLang's pools, streams and memory saver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from marconi_kernels import Encoding, StateLayout
from sglang.srt import runtime_context
from sglang.srt.arg_groups import model_override_base
from sglang.srt.configs.mamba_utils import (
    KimiLinearCacheParams,
    KimiLinearStateShape,
    Mamba2StateDType,
)
from sglang.srt.configs.qwen4_exp import Qwen4ExpConfig
from sglang.srt.constants import GPU_MEMORY_TYPE_KV_CACHE
from sglang.srt.mem_cache.memory_pool import MambaPool
from sglang.srt.mem_cache.ple_state_pool import NGramPool, ShortConvPool
from sglang_marconi import plugin
from sglang_marconi.cache import memory_split
from sglang_marconi.cache.checkpoint_pool import CheckpointPool, active_tensors
from sglang_marconi.compatibility import UnsupportedConfiguration, store_refusals
from sglang_marconi.doctor import Finding
from sglang_marconi.doctor.server import check_server
from sglang_marconi.pool import CheckpointStore, store_size
from sglang_marconi.settings.schema import Settings
from torch.utils._python_dispatch import TorchDispatchMode

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


def test_all_that_sglang_keeps_of_a_slot_is_checkpointed() -> None:
    # Several convolutions, the rings of ReplaySSM and what drafts leave.
    for options in ({}, {"enable_linear_replayssm": True}, {"speculative_num_draft_tokens": 3}):
        slots = states(**options)
        pool_for(slots).attach(slots, None)


@pytest.mark.parametrize("side", ["convolution", "ngrams"])
def test_further_state_in_a_slot_is_refused_before_the_first_request(side: str) -> None:
    slots = states()
    pool = pool_for(slots)
    if side == "ngrams":
        state: Any = NGramPool(size=SLOTS, context_len=2, eos_token_id=0, device="cpu")
    else:
        state = ShortConvPool(
            size=SLOTS, state_shape=(8, 3), layer_ids=[1], dtype=torch.float32, device="cpu"
        )
    slots.register_slot_state(state)
    with pytest.raises(UnsupportedConfiguration, match=r"checkpoint_memory.*share the slots"):
        pool.attach(slots, None)


@pytest.mark.parametrize(("layers", "refused"), [([2], True), ([], False), (None, False)])
def test_a_model_with_further_state_is_refused_by_its_config(
    layers: list[int] | None, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Qwen4ExpConfig(text_config={"ple_layer_ids": layers})
    monkeypatch.setattr(
        model_override_base, "model_config_of", lambda _args: SimpleNamespace(hf_config=config)
    )
    found = [str(refusal) for refusal in store_refusals(STORE) if refusal.applies(None)]
    assert len(found) == refused
    assert all("Qwen4-Exp" in message and "share the slots" in message for message in found)
    assert store_refusals(Settings()) == ()


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

    def create(*, enable: bool) -> Saver:
        asked.append(enable)
        return saver

    monkeypatch.setattr(memory_split.TorchMemorySaverAdapter, "create", create)
    features = SimpleNamespace(enable_memory_saver=True)
    monkeypatch.setattr(memory_split, "get_exec", lambda: SimpleNamespace(features=features))
    builder = memory_split.StoreBuilder(Settings(checkpoint_memory=0.5, host_memory="1MB"))
    builder._split = memory_split.MemorySplit(active_slots=2, store_bytes=1_000_000)
    pool = builder.build_pool(
        lambda: None,
        mamba_size=2,
        cache_params=cache_params(),
        mamba_layer_ids=[0, 2],
        device="cpu",
    )
    assert asked == [True]
    assert saver.tags == [GPU_MEMORY_TYPE_KV_CACHE]
    store = pool.store
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


# ---- doctor ----


def test_doctor_says_that_a_store_does_not_go_with_the_model(tmp_path: Path) -> None:
    config = Qwen4ExpConfig(
        text_config={"ple_layer_ids": [2], "num_hidden_layers": 4, "eos_token_id": 1}
    )
    config.architectures = ["Qwen4ExpForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    store = ("--radix-eviction-policy-config", '{"checkpoint_memory": 0.5}')
    found: list[Finding] = []
    with patch.dict(os.environ):  # SGLang hands settings to its processes there.
        check_server(["--model-path", str(tmp_path), "--device", "cpu", *store], found.append)
    row = next(row for row in found if row.check == "checkpoint_memory, encoding or host_memory")
    assert row.status == "problem"
    assert "Qwen4-Exp" in row.found
    assert "omit checkpoint_memory" in row.remedy
