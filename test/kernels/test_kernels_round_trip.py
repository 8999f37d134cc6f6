"""States to pages and back: bit for bit, everywhere, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from kernel_states import (
    BESIDE,
    FAMILIES,
    OTHERS,
    POISON,
    Family,
    Pages,
    active_tensors,
    bits,
    encodings_of,
)
from marconi_kernels import Encoding, StateLayout, StatePart, clear, load, reencode, store
from torch import Tensor

LAYERS, SLOTS = 2, 5


def tensors_of(family: Family, device: torch.device, seed: int = 1) -> list[Tensor]:
    return [t.to(device) for t in active_tensors(family.parts(), LAYERS, SLOTS, seed)]


def slots_of(numbers: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def assert_slots_equal(
    one: Sequence[Tensor], other: Sequence[Tensor], here: int, there: int
) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(bits(a[:, here]), bits(b[:, there]))


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_exact_is_bit_for_bit(name: str, device: torch.device) -> None:
    family = (FAMILIES | OTHERS)[name]
    active = tensors_of(family, device)
    layout = StateLayout(LAYERS, family.parts())
    pages = Pages.of(layout, 2, device)
    store(active, slots_of([4, 1], device), *pages, Encoding.EXACT, layout)
    restored = tensors_of(family, device, seed=2)
    kept = [tensor.clone() for tensor in restored]
    # The first state is read twice, the second once.
    rows = pages.rows[[0, 1, 0]]
    encodings = encodings_of([Encoding.EXACT] * 3, device)
    load(restored, slots_of([3, 0, 2], device), pages.buffer, rows, encodings, layout)
    for slot, source in ((3, 4), (0, 1), (2, 4)):
        assert_slots_equal(restored, active, slot, source)
    for slot in (1, 4):
        assert_slots_equal(restored, kept, slot, slot)


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("name", ["kimi-linear-48b-a3b", "jet-nemotron", "lfm2-2.6b"])
def test_windows_survive_every_encoding_bit_for_bit(
    name: str, encoding: Encoding, device: torch.device
) -> None:
    family = (FAMILIES | OTHERS)[name]
    active = tensors_of(family, device)
    layout = StateLayout(LAYERS, family.parts())
    pages = Pages.of(layout, 1, device)
    store(active, slots_of([2], device), *pages, encoding, layout)
    restored = [torch.zeros_like(tensor) for tensor in active]
    load(restored, slots_of([0], device), *pages, encodings_of([encoding], device), layout)
    assert_slots_equal(restored[:-1], active[:-1], 0, 2)


@pytest.mark.parametrize("encoding", Encoding)
def test_what_is_beside_a_state_survives_every_encoding_bit_for_bit(
    encoding: Encoding, device: torch.device
) -> None:
    parts = [*BESIDE, StatePart((2, 70, 33), torch.float32, True)]
    active = [t.to(device) for t in active_tensors(parts, LAYERS, SLOTS, 5)]
    layout = StateLayout.of(active, [part.lossy for part in parts], page_bytes=512)
    pages = Pages.of(layout, 2, device)
    store(active, slots_of([2, 4], device), *pages, Encoding.EXACT, layout)
    if encoding != Encoding.EXACT:
        rows = (pages.rows[:1], pages.rows[1:])
        reencode(pages.buffer, rows[0], Encoding.EXACT, rows[1], encoding, layout)
    restored = [torch.zeros_like(tensor) for tensor in active]
    source = 1 if encoding != Encoding.EXACT else 0
    encodings = encodings_of([encoding], device)
    load(restored, slots_of([0], device), pages.buffer, pages.rows[source:][:1], encodings, layout)
    assert_slots_equal(restored[:-1], active[:-1], 0, 2)


@pytest.mark.parametrize("page_bytes", [512, 528, 4112, None])
@pytest.mark.parametrize("encoding", Encoding)
def test_every_byte_read_was_written_and_no_other_page(
    encoding: Encoding, page_bytes: int | None, device: torch.device
) -> None:
    parts = [
        StatePart((37, 3), torch.bfloat16, False),
        StatePart((3, 70, 33), torch.float32, True),
        StatePart((5,), torch.int8, False),
    ]
    layout = StateLayout(LAYERS, parts, page_bytes)
    active = [t.to(device) for t in active_tensors(parts, LAYERS, SLOTS, 3)]
    pages = Pages.of(layout, 2, device)
    store(active, slots_of([0, 3], device), *pages, encoding, layout)
    assert (pages.buffer[~pages.touched(layout, encoding)] == POISON).all()
    results = []
    # A byte that is read but was not written would differ between these two.
    for poison in (POISON, POISON ^ 0xFF):
        buffer = torch.full_like(pages.buffer, poison)
        store(active, slots_of([0, 3], device), buffer, pages.rows, encoding, layout)
        results.append([torch.full_like(tensor, 7) for tensor in active])
        encodings = encodings_of([encoding] * 2, device)
        load(results[-1], slots_of([1, 2], device), buffer, pages.rows, encodings, layout)
    for one, other in zip(*results, strict=True):
        assert torch.equal(bits(one), bits(other))
        assert (one[:, [0, 3, 4]] == 7).all()


def test_encodings_mix_in_one_load(device: torch.device) -> None:
    family = FAMILIES["jet-nemotron"]
    active = tensors_of(family, device)
    layout = StateLayout(LAYERS, family.parts())
    pages = Pages.of(layout, 4, device)
    alone = [torch.zeros_like(tensor) for tensor in active]
    mixed = [torch.zeros_like(tensor) for tensor in active]
    for encoding in Encoding:
        row = pages.rows[encoding : encoding + 1]
        slot = slots_of([int(encoding)], device)
        store(active, slot, pages.buffer, row, encoding, layout)
        load(alone, slot, pages.buffer, row, encodings_of([encoding], device), layout)
    order = [Encoding.FP8, Encoding.EXACT, Encoding.INT8, Encoding.BF16]
    rows = pages.rows[[int(encoding) for encoding in order]]
    slots = slots_of([int(encoding) for encoding in order], device)
    load(mixed, slots, pages.buffer, rows, encodings_of(order, device), layout)
    for one, other in zip(alone, mixed, strict=True):
        assert torch.equal(bits(one), bits(other))


@pytest.mark.parametrize("target", Encoding)
@pytest.mark.parametrize("source", Encoding)
def test_reencoding_is_a_load_and_a_store(
    source: Encoding, target: Encoding, device: torch.device
) -> None:
    if source == target:
        return
    family = FAMILIES["jet-nemotron"]
    active = tensors_of(family, device)
    layout = StateLayout(LAYERS, family.parts(), page_bytes=4112)
    pages = Pages.of(layout, 4, device)
    buffer, here, there, again = pages.buffer, *(pages.rows[i : i + 1] for i in range(3))
    store(active, slots_of([2], device), buffer, here, source, layout)
    before = buffer.clone()
    reencode(buffer, here, source, there, target, layout)
    named = there[0, : layout.pages(target)].long()
    others = torch.ones(len(buffer), dtype=torch.bool, device=device)
    others[named] = False
    assert torch.equal(buffer[others], before[others])
    load(active, slots_of([0], device), buffer, here, encodings_of([source], device), layout)
    store(active, slots_of([0], device), buffer, again, target, layout)
    used = layout.encoded_bytes(target)
    image = buffer[again[0, : layout.pages(target)].long()].flatten()[:used]
    assert torch.equal(buffer[named].flatten()[:used], image)


def test_slots_cleared(device: torch.device) -> None:
    family = FAMILIES["jet-nemotron"]
    active = tensors_of(family, device)
    kept = [tensor.clone() for tensor in active]
    clear(active, slots_of([3, 0], device), StateLayout(LAYERS, family.parts()))
    for slot in range(SLOTS):
        if slot in (0, 3):
            assert not any(tensor[:, slot].any() for tensor in active)
        else:
            assert_slots_equal(active, kept, slot, slot)


def test_no_states_are_no_work(device: torch.device) -> None:
    family = FAMILIES["jet-nemotron"]
    active = tensors_of(family, device)
    layout = StateLayout(LAYERS, family.parts())
    pages = Pages.of(layout, 1, device)
    none, rows = slots_of([], device), pages.rows[:0]
    store(active, none, pages.buffer, rows, Encoding.INT8, layout)
    load(active, none, pages.buffer, rows, encodings_of([], device), layout)
    reencode(pages.buffer, rows, Encoding.EXACT, rows, Encoding.INT8, layout)
    clear(active, none, layout)
    assert (pages.buffer == POISON).all()


def test_arguments_refused(device: torch.device) -> None:
    parts = [StatePart((40, 8), torch.float32, True)]
    layout = StateLayout(LAYERS, parts)
    (active,) = (t.to(device) for t in active_tensors(parts, LAYERS, SLOTS, 0))
    pages = Pages.of(layout, 1, device)
    slot = slots_of([1], device)
    encodings = encodings_of([Encoding.EXACT], device)
    with pytest.raises(ValueError, match="expected 1 active"):
        store([active, active], slot, *pages, Encoding.EXACT, layout)
    with pytest.raises(ValueError, match="active tensor 0"):
        store([active.half()], slot, *pages, Encoding.EXACT, layout)
    with pytest.raises(ValueError, match="active tensor 0"):
        load([active[:1]], slot, *pages, encodings, layout)
    with pytest.raises(ValueError, match="slots must be"):
        clear([active], slot.int(), layout)
    with pytest.raises(ValueError, match="pages must be"):
        store([active], slot, pages.buffer[:, :-16], pages.rows, Encoding.EXACT, layout)
    with pytest.raises(ValueError, match="page numbers"):
        store([active], slot, pages.buffer, pages.rows.long(), Encoding.EXACT, layout)
    with pytest.raises(ValueError, match="page numbers"):
        store([active], slot, pages.buffer, pages.rows[:, :1], Encoding.EXACT, layout)
    with pytest.raises(ValueError, match="encodings must be"):
        load([active], slot, *pages, encodings.long(), layout)
    with pytest.raises(ValueError, match="in INT8 already"):
        reencode(pages.buffer, pages.rows, Encoding.INT8, pages.rows, Encoding.INT8, layout)
