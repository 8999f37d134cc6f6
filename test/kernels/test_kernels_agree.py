"""The kernels against the torch implementation, bit for bit.

Where there is no GPU these run in `test_kernels_interpreted.py`, under Triton's interpreter; that
takes milliseconds for each program, so the states here are small.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from kernel_states import BESIDE, POISON, Pages, active_tensors, bits, encodings_of
from marconi_kernels import Encoding, StateLayout, StatePart
from marconi_kernels.ops.clear import clear_triton
from marconi_kernels.ops.load import load_triton
from marconi_kernels.ops.reencode import reencode_triton
from marconi_kernels.ops.store import store_triton
from marconi_kernels.reference import clear_torch, load_torch, reencode_torch, store_torch
from torch import Tensor

LAYERS, SLOTS = 1, 4
LOSSY = [Encoding.BF16, Encoding.INT8, Encoding.FP8]


def window(*shape: int, dtype: torch.dtype = torch.bfloat16) -> StatePart:
    return StatePart(shape, dtype, False)


def recurrent(*shape: int, dtype: torch.dtype = torch.float32) -> StatePart:
    return StatePart(shape, dtype, True)


CASES = {
    # a head of Mamba2 and of GDN; KDA's three windows; Mamba1
    "mamba2": ([window(16, 3), recurrent(1, 80, 128)], 4112),
    "gdn": ([window(3, 24), recurrent(1, 128, 128)], 65536),
    "kda": ([window(8, 3)] * 3 + [recurrent(1, 128, 64)], 8208),
    "mamba1": ([window(144, 3), recurrent(144, 1, 16)], 1024),
    "lfm2": ([window(64, 2), recurrent(1, 8, 0)], 512),
    # unaligned: rows, columns, windows; two groups of different size; elements in memory order
    "odd": ([window(37, 3), recurrent(2, 131, 5)], 528),
    "beside": ([window(8, 3), *BESIDE, recurrent(2, 40, 24)], 512),
    "flat": ([window(5, dtype=torch.int8), recurrent(2, 75)], 512),
    "wide_rows": ([recurrent(33, 140)], 1040),
    "two": ([recurrent(1, 32, 16), window(8, dtype=torch.float64), recurrent(40, 6)], 512),
    "bf16": ([window(8, 3), recurrent(2, 64, 16, dtype=torch.bfloat16)], 1024),
    "fp16": ([window(9, dtype=torch.half), recurrent(1, 65, 7, dtype=torch.half)], 512),
}


class Both:
    """A case's layout and tensors, and the results of both implementations side by side."""

    def __init__(self, name: str, device: torch.device) -> None:
        parts, page_bytes = CASES[name]
        self.device = device
        self.layout = StateLayout(LAYERS, parts, page_bytes)
        self.active = [t.to(device) for t in active_tensors(parts, LAYERS, SLOTS, 11)]
        self.pages = Pages.of(self.layout, 2, device, seed=12)
        self.slots = torch.tensor([3, 1], device=device)

    def stored(self, encoding: Encoding) -> Tensor:
        buffer = self.pages.buffer.clone()
        arguments = (buffer, self.pages.rows, encoding, self.layout)
        store_torch(self.active, self.slots, *arguments)
        return buffer

    def loaded(self, buffer: Tensor, encoding: Encoding, state: int = 0) -> list[Tensor]:
        restored = [torch.zeros_like(tensor) for tensor in self.active]
        rows, encodings = self.pages.rows[state:][:1], encodings_of([encoding], self.device)
        load_torch(restored, self.slots[:1], buffer, rows, encodings, self.layout)
        return restored

    def images(self, buffer: Tensor, encoding: Encoding) -> Tensor:
        used = self.pages.rows[:, : self.layout.pages(encoding)].long()
        return buffer[used].flatten(1)[:, : self.layout.encoded_bytes(encoding)]


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("name", CASES)
def test_stores(name: str, encoding: Encoding, device: torch.device) -> None:
    both = Both(name, device)
    buffer = both.pages.buffer.clone()
    # As a slice of a wider table, at an odd address.
    table = torch.full((2, both.pages.rows.shape[1] + 3), -1, dtype=torch.int32, device=device)
    table[:, 1:-2] = both.pages.rows
    store_triton(both.active, both.slots, buffer, table[:, 1:], encoding, both.layout)
    wanted = both.stored(encoding)
    assert_same_but_padding(both.images(wanted, encoding), both.images(buffer, encoding), POISON)
    assert_equal(both.loaded(wanted, encoding), both.loaded(buffer, encoding))
    written = both.pages.touched(both.layout, encoding)
    assert (buffer[~written] == POISON).all()


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("name", CASES)
def test_loads(name: str, encoding: Encoding, device: torch.device) -> None:
    both = Both(name, device)
    buffer = both.stored(encoding)
    slots = torch.tensor([0, 2], device=device)
    rows = both.pages.rows[[1, 1]]
    encodings = encodings_of([encoding] * 2, device)
    results = []
    for implementation in (load_torch, load_triton):
        results.append([torch.full_like(tensor, 7) for tensor in both.active])
        implementation(results[-1], slots, buffer, rows, encodings, both.layout)
    assert_equal(*results)


def test_loads_of_several_encodings(device: torch.device) -> None:
    both = Both("mamba2", device)
    buffer = both.stored(Encoding.EXACT)
    rows = both.pages.rows
    store_torch(both.active, both.slots[:1], buffer, rows[:1], Encoding.INT8, both.layout)
    encodings = encodings_of([Encoding.INT8, Encoding.EXACT], device)
    results = []
    for implementation in (load_torch, load_triton):
        results.append([torch.full_like(tensor, 7) for tensor in both.active])
        implementation(results[-1], both.slots, buffer, rows, encodings, both.layout)
    assert_equal(*results)


@pytest.mark.parametrize(
    ("source", "target"),
    [(Encoding.EXACT, lossy) for lossy in LOSSY]
    + [(lossy, Encoding.EXACT) for lossy in LOSSY]
    + [(Encoding.BF16, Encoding.INT8), (Encoding.INT8, Encoding.FP8)],
)
@pytest.mark.parametrize("name", ["gdn", "odd", "bf16", "beside"])
def test_reencodes(name: str, source: Encoding, target: Encoding, device: torch.device) -> None:
    both = Both(name, device)
    buffer = both.stored(source)
    here, there = both.pages.rows[:1], both.pages.rows[1:]
    results = []
    for implementation in (reencode_torch, reencode_triton):
        results.append(buffer.clone())
        implementation(results[-1], here, source, there, target, both.layout)
    images = [both.images(result, target)[1] for result in results]
    assert_same_but_padding(*images, both.images(buffer, target)[1])
    assert_equal(*(both.loaded(result, target, state=1) for result in results))
    untouched = torch.ones(len(buffer), dtype=torch.bool, device=device)
    untouched[there[0, : both.layout.pages(target)].long()] = False
    assert torch.equal(results[1][untouched], buffer[untouched])


@pytest.mark.parametrize("name", ["mamba2", "odd", "lfm2", "beside"])
def test_clears(name: str, device: torch.device) -> None:
    both = Both(name, device)
    results = [[tensor.clone() for tensor in both.active] for _ in range(2)]
    clear_torch(results[0], both.slots)
    clear_triton(results[1], both.slots, both.layout)
    assert_equal(*results)


@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.FP8])
def test_values_at_the_edges_of_an_encoding(encoding: Encoding, device: torch.device) -> None:
    """Ties, denormals, signed zeros, overflow, NaN and infinity, a column each."""
    layout = StateLayout(1, [recurrent(64, 16)], 4096)
    limit = 127.0 if encoding == Encoding.INT8 else 448.0
    column = torch.linspace(-limit, limit, 64)
    state = column[:, None].repeat(1, 16)
    state[0] = limit
    state[1:, 0] = (torch.arange(63) - 31).float() / 2
    state[1:, 1] = torch.exp2(-torch.arange(63.0) / 4)
    state[:, 2] *= 2.0**-140
    state[:, 3] = -0.0
    state[:, 4] *= torch.finfo(torch.float32).max / limit
    state[7, 5], state[8, 6], state[9, 7] = torch.nan, torch.inf, -torch.inf
    state[1:, 8] = (torch.arange(63) - 31).float() * 2**-10
    active = [state[None, None].to(device)]
    images = []
    for implementation in (store_torch, store_triton):
        buffer = torch.zeros(1, 4096, dtype=torch.uint8, device=device)
        slots = torch.zeros(1, dtype=torch.int64, device=device)
        implementation(active, slots, buffer, slots.int()[:, None], encoding, layout)
        images.append(buffer)
    assert torch.equal(*images)


@pytest.mark.parametrize("strided", ["slots_apart", "layers_inside", "unaligned"])
def test_strides(strided: str, device: torch.device) -> None:
    """Slots further apart than their bytes, SGLang's page-major layout, addresses of any kind."""
    layers = 3
    layout = StateLayout(layers, [recurrent(1, 33, 16)], 512)
    size = 33 * 16
    strides, offset = {
        "slots_apart": ((SLOTS * 2 * size, 2 * size), 0),
        "layers_inside": ((size, layers * size + 4), 0),
        "unaligned": ((SLOTS * size, size), 1),
    }[strided]
    storage = torch.randn(layers * SLOTS * 2 * size + 64, device=device)
    active = storage.as_strided((layers, SLOTS, 1, 33, 16), (*strides, size, 16, 1), offset)
    pages = Pages.of(layout, 2, device)
    slots = torch.tensor([3, 0], device=device)
    for encoding in (Encoding.EXACT, Encoding.INT8):
        store_triton([active], slots, *pages, encoding, layout)
        wanted = pages.buffer.clone()
        store_torch([active.contiguous()], slots, wanted, pages.rows, encoding, layout)
        used = pages.rows[:, : layout.pages(encoding)].long()
        found = pages.buffer[used].flatten(1)[:, : layout.encoded_bytes(encoding)]
        assert torch.equal(found, wanted[used].flatten(1)[:, : layout.encoded_bytes(encoding)])
        before = storage.clone()
        numbers = torch.tensor([1, 2], device=device)
        encodings = encodings_of([encoding] * 2, device)
        load_triton([active], numbers, *pages, encodings, layout)
        others = before.as_strided(active.shape, active.stride(), offset)
        load_torch([others], numbers, *pages, encodings, layout)
        assert torch.equal(storage, before)


def test_addresses_past_two_gigabytes(device: torch.device) -> None:
    """Slots and pages whose offsets exceed 32 bits; only the pages of memory touched are real."""
    layout = StateLayout(1, [recurrent(1, 32, 16)], 2048)
    size = 32 * 16
    stride = 2**31 + 64
    active = torch.empty(stride + size, device=device).as_strided(
        (1, 2, 1, 32, 16), (0, stride, size, 16, 1)
    )
    generator = torch.Generator().manual_seed(1)
    active.copy_(torch.randn(active.shape, generator=generator))
    kept = active.clone()
    pages = torch.empty(2**20 + 2, 2048, dtype=torch.uint8, device=device)
    rows = torch.tensor([[2**20 + 1]], dtype=torch.int32, device=device)
    first, second = (torch.tensor([slot], device=device) for slot in (0, 1))
    store_triton([active], second, pages, rows, Encoding.EXACT, layout)
    encodings = encodings_of([Encoding.EXACT], device)
    load_triton([active], first, pages, rows, encodings, layout)
    assert torch.equal(active[:, 0], kept[:, 1])
    clear_triton([active], second, layout)
    assert not active[:, 1].any()
    assert torch.equal(active[:, 0], kept[:, 1])


def test_a_slot_that_is_not_contiguous_is_refused(device: torch.device) -> None:
    layout = StateLayout(1, [recurrent(16, 32)], 4096)
    active = torch.zeros(1, 2, 32, 16, device=device).transpose(2, 3)
    with pytest.raises(ValueError, match="must be contiguous"):
        clear_triton([active], torch.tensor([0], device=device), layout)


def assert_same_but_padding(wanted: Tensor, found: Tensor, before: Tensor | int) -> None:
    """The torch implementation fills padding with zeros; the kernels may leave what was there."""
    assert ((found == wanted) | (wanted == 0) & (found == before)).all()


def assert_equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(bits(a), bits(b))
