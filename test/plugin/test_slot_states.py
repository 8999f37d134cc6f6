"""What SGLang keeps in the slot of a state: a store has all of it, or is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import pytest
import sglang
import torch
from marconi_kernels import Encoding
from sglang.srt.mem_cache.memory_pool import MambaPool
from sglang.srt.mem_cache.ple_state_pool import NGramPool, ShortConvPool
from sglang_marconi.cache import memory_split
from sglang_marconi.cache.checkpoint_pool import CheckpointPool
from sglang_marconi.cache.memory_split import StoreBuilder
from sglang_marconi.cache.slot_states import slot_bytes, state_layout
from sglang_marconi.compatibility import UnsupportedConfiguration
from sglang_marconi.pool import CheckpointStore, store_size
from sglang_marconi.settings.schema import Settings
from support.slot_models import EOS, LFM2, PLE, ZAYA, configurator, one_rank, qwen4_exp

SLOTS = 4
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    one_rank(monkeypatch)


def slots_of(config: Any, **options: Any) -> MambaPool:
    """The slots of a model's states, with what SGLang attaches to them."""
    params = config.mamba2_cache_params
    pool = MambaPool(
        size=SLOTS,
        spec_state_size=SLOTS,
        cache_params=params,
        mamba_layer_ids=params.layers,
        device="cpu",
        **options,
    )
    ple = configurator(config)._get_ple_req_pool_kwargs()
    if ple.get("short_conv_layer_ids"):
        windows = ShortConvPool(
            size=SLOTS,
            state_shape=ple["short_conv_state_shape"],
            layer_ids=ple["short_conv_layer_ids"],
            dtype=params.dtype.conv,
            device="cpu",
        )
        tokens = NGramPool(
            size=SLOTS,
            context_len=ple["ngram_context_len"],
            eos_token_id=ple["ngram_eos_token_id"],
            device="cpu",
        )
        pool.register_slot_state(windows)
        pool.register_slot_state(tokens)
    return pool


def stored(slots: MambaPool, lossy: Encoding | None) -> CheckpointPool:
    layout = state_layout(slots, page_bytes=512)
    checkpoint = layout.pages(Encoding.EXACT) * layout.page_bytes
    size = store_size(layout, 4 * checkpoint, lossy=lossy, host_bytes=2 * checkpoint)
    pool = CheckpointPool(CheckpointStore(layout, size, lossy=lossy, device=CPU))
    pool.attach(slots, None)
    return pool


class Kept(NamedTuple):
    """A slot's content: what is kept bit for bit, and recurrent states."""

    exact: list[torch.Tensor]
    recurrent: torch.Tensor

    @classmethod
    def of(cls, slots: MambaPool, slot: int) -> Kept:
        """As SGLang copies it to the host."""
        conv, recurrent, *attached = slots.get_cpu_copy(torch.tensor([slot]))
        exact = [*conv, *(attached[0] if attached else [])]
        return cls([tensor.clone() for tensor in exact], recurrent.clone())


def fill(slots: MambaPool, seed: int) -> None:
    """Random bits in windows, any numbers for tokens, normal numbers for states."""
    generator = torch.Generator().manual_seed(seed)
    # What SGLang says that a slot has.
    for name, tensor, _, _ in slots._iter_transfer_state_entries():
        if name == "temporal":
            tensor.normal_(generator=generator)
        elif tensor.dtype == torch.int64:
            tensor.random_(generator=generator)
        else:
            bits = tensor.view(torch.int16)
            bits.copy_(torch.randint(0, 2**14, bits.shape, generator=generator))


def same(one: Kept, other: Kept) -> bool:
    pairs = zip(one.exact, other.exact, strict=True)
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)


MODELS: dict[str, Callable[[], MambaPool]] = {
    "qwen4-exp": lambda: slots_of(qwen4_exp()),
    "qwen4-exp, PLE": lambda: slots_of(qwen4_exp(**PLE)),
    "qwen4-exp, PLE, replayed": lambda: slots_of(qwen4_exp(**PLE), enable_linear_replayssm=True),
    "qwen4-exp, PLE, drafts": lambda: slots_of(qwen4_exp(**PLE), speculative_num_draft_tokens=3),
    "zaya": lambda: slots_of(ZAYA),
    "lfm2": lambda: slots_of(LFM2),
}


@pytest.mark.parametrize("lossy", [None, Encoding.INT8])
@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_has_all_of_a_slot_in_every_form(model: str, lossy: Encoding | None) -> None:
    slots = MODELS[model]()
    pool = stored(slots, lossy)
    fill(slots, 1)
    before = Kept.of(slots, 1)
    checkpoint = pool.alloc()
    assert checkpoint is not None
    pool.store_from_active(slots, torch.tensor([1]), checkpoint)
    for form in range(len(pool.store.forms)):
        if form:
            pool.store.set_form(int(checkpoint), form)
        fill(slots, 2 + form)
        others = [Kept.of(slots, slot) for slot in (1, 2, 4)]
        pool.load_to_active(slots, checkpoint, torch.tensor([3]))
        found = Kept.of(slots, 3)
        assert same(found, before)
        if found.recurrent.numel():
            bound = 0.0 if lossy is None or form == 0 else before.recurrent.abs().max() / 64
            assert (found.recurrent - before.recurrent).abs().max() <= bound
        for slot, other in zip((1, 2, 4), others, strict=True):
            assert same(Kept.of(slots, slot), other)


@pytest.mark.parametrize("model", MODELS)
def test_a_slot_that_shares_a_checkpoint_has_all_of_it(model: str) -> None:
    # SGLang's own copy, which is what there is without a store.
    slots = MODELS[model]()
    fill(slots, 1)
    before = Kept.of(slots, 1)
    slots.copy_from(torch.tensor([1]), torch.tensor([3]))
    found = Kept.of(slots, 3)
    assert same(found, before)
    assert torch.equal(found.recurrent, before.recurrent)
    slots.clear_slots(torch.tensor([3]))
    cleared = Kept.of(slots, 3)
    assert not cleared.recurrent.any()
    for part in cleared.exact:
        assert (part == (EOS if part.dtype == torch.int64 else 0)).all()


def test_what_sglang_does_not_take_along_is_known() -> None:
    names = {field.name for field in fields(MambaPool.SpeculativeState)}
    # Drafts are refused, rings are behind no state that is kept.
    assert names - {"conv", "temporal"} == MambaPool._NON_TRANSFER_STATE_FIELDS
    rings = {f"replayssm_{ring}" for ring in ("d", "k", "g", "rawv", "rawk", "beta")}
    assert names - {"conv", "temporal"} - rings == {"intermediate_ssm", "intermediate_conv_window"}


def test_what_sglang_attaches_to_slots_is_known() -> None:
    attached = re.compile(r"\.register_slot_state\((.*)\)")
    found = {
        name
        for path in (Path(sglang.__file__).parent / "srt").rglob("*.py")
        for name in attached.findall(path.read_text())
    }
    assert found == {"self.short_conv_pool", "self.ngram_pool"}


# ---- refusals ----


class Novel:
    """Attached by a model that is not known yet."""

    def iter_transfer_state_entries(self) -> Iterator[Any]:
        yield "novel", torch.zeros(SLOTS + 1, 3), None, 0


class Grown(NGramPool):
    """Known, with more to it than is known."""

    def iter_transfer_state_entries(self) -> Iterator[Any]:
        yield from super().iter_transfer_state_entries()
        yield "more", torch.zeros(SLOTS + 1, 3), None, 0


def test_what_is_attached_and_not_known_is_named() -> None:
    slots = slots_of(qwen4_exp(**PLE))
    slots.register_slot_state(Novel())
    pool = SimpleNamespace(mamba_pool=slots, mamba_ckpt_pool=None)
    builder = StoreBuilder(Settings(checkpoint_memory=0.5), spared=0)
    builder._split = memory_split.MemorySplit(active_slots=2, store_bytes=1_000_000)
    with pytest.raises(UnsupportedConfiguration, match=r"attaches a Novel.*share the slots"):
        builder.build_pool(None, pool)
    assert pool.mamba_ckpt_pool is None


def test_more_than_a_store_knows_is_refused_before_the_first_request() -> None:
    slots = slots_of(qwen4_exp())
    slots.register_slot_state(Grown(size=SLOTS, context_len=2, eos_token_id=EOS, device="cpu"))
    known = state_layout(slots).state_bytes
    with pytest.raises(
        UnsupportedConfiguration, match=rf"{known + 12:,} bytes.*knows {known:,}; .*share the slots"
    ):
        stored(slots, None)


def test_what_is_attached_later_is_refused_as_well() -> None:
    slots = slots_of(qwen4_exp())
    pool = stored(slots, None)
    slots.register_slot_state(NGramPool(size=SLOTS, context_len=2, eos_token_id=EOS, device="cpu"))
    with pytest.raises(UnsupportedConfiguration, match="share the slots"):
        pool.attach(slots, None)


# ---- bytes ----


@pytest.mark.parametrize("ple", [{}, PLE])
def test_a_slot_is_as_large_as_its_pool_says(ple: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = SimpleNamespace(max_running_requests=None)
    monkeypatch.setattr(memory_split, "get_schedule", lambda: schedule)
    monkeypatch.setattr(memory_split, "_slots_each", lambda: 1)
    config = qwen4_exp(**ple)
    use = memory_split._slot_use(configurator(config), 10)
    slots = slots_of(config)
    assert use.slot_bytes == slot_bytes(slots) == state_layout(slots).state_bytes
    budgeted = config.mamba2_cache_params.mamba_cache_per_req
    assert use.slot_bytes - budgeted == (2 * 64 * 9 * 2 + 2 * 8 if ple else 0)


def test_kv_has_the_same_room_when_pools_are_sized_again(monkeypatch: pytest.MonkeyPatch) -> None:
    config = qwen4_exp(**PLE)
    per_slot = config.mamba2_cache_params.mamba_cache_per_req / 2**30
    schedule = SimpleNamespace(max_running_requests=4, max_mamba_cache_size=20)
    context = mock.Mock()
    context.override = lambda _name, **changed: vars(schedule).update(changed)
    monkeypatch.setattr(memory_split, "get_schedule", lambda: schedule)
    monkeypatch.setattr(memory_split, "get_context", lambda: context)
    monkeypatch.setattr(memory_split, "_slots_each", lambda: 1)

    def sized(_: Any, memory_gib: float) -> float:
        return memory_gib - (schedule.max_mamba_cache_size + 1) * per_slot

    builder = StoreBuilder(Settings(checkpoint_memory=0.5), spared=0)
    left = [builder.split(sized, configurator(config), 1.0) for _ in range(2)]
    assert schedule.max_mamba_cache_size == 10
    assert left[0] == pytest.approx(left[1], abs=1e-12)
    assert left[0] == pytest.approx(1.0 - 21 * per_slot, abs=1e-12)
    # Half of the slots, with what is attached to them.
    assert builder._split is not None
    assert builder._split.store_bytes == 10 * slot_bytes(slots_of(config))
