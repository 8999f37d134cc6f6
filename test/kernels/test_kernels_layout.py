"""Layouts: bytes and pages of real models' states, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_states import FAMILIES, OTHERS, Family
from marconi_kernels import Encoding, StateLayout, StatePart
from marconi_kernels.grouping import Grouping

WINDOW = StatePart((8, 3), torch.bfloat16, False)


def layout_of(family: Family) -> StateLayout:
    return StateLayout(family.layers, family.parts())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_bytes_hold_more_checkpoints(name: str) -> None:
    layout = layout_of(FAMILIES[name])
    held = {e: layout.state_bytes / (layout.pages(e) * layout.page_bytes) for e in Encoding}
    assert held[Encoding.EXACT] >= 0.99
    assert held[Encoding.BF16] >= 1.9
    assert held[Encoding.INT8] >= 3.5
    assert held[Encoding.FP8] == held[Encoding.INT8]


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_whole_pages_waste_a_hundredth_at_most(name: str) -> None:
    layout = layout_of((FAMILIES | OTHERS)[name])
    for encoding in Encoding:
        waste = layout.pages(encoding) * layout.page_bytes - layout.encoded_bytes(encoding)
        assert 0 <= waste <= 0.01 * layout.encoded_bytes(encoding)


def test_nemotron_h_8b_by_hand() -> None:
    layout = layout_of(FAMILIES["nemotron-h-8b"])
    windows, elements = 10240 * 3 * 2, 128 * 64 * 128
    assert layout.state_bytes == 24 * (windows + 4 * elements)
    assert layout.encoded_bytes(Encoding.EXACT) == layout.state_bytes
    assert layout.encoded_bytes(Encoding.BF16) == 24 * (windows + 2 * elements)
    assert layout.encoded_bytes(Encoding.INT8) == 24 * (windows + elements + 4 * 128 * 128)


def test_windows_alone_are_as_large_in_every_encoding() -> None:
    layout = layout_of(OTHERS["lfm2-2.6b"])
    assert {layout.encoded_bytes(e) for e in Encoding} == {22 * 2048 * 2 * 2}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_state_of_two_bytes_an_element_is_no_smaller_in_bf16(dtype: torch.dtype) -> None:
    layout = StateLayout(3, [StatePart((4, 64, 32), dtype, True)])
    assert layout.encoded_bytes(Encoding.BF16) == layout.encoded_bytes(Encoding.EXACT)


def test_a_layout_of_active_tensors() -> None:
    tensors = [torch.zeros(3, 7, 8, 3, dtype=torch.bfloat16), torch.zeros(3, 7, 4, 16, 8)]
    layout = StateLayout.of(tensors, [False, True])
    assert layout == StateLayout(3, [WINDOW, StatePart((4, 16, 8), torch.float32, True)])
    assert hash(layout) == hash(StateLayout.of(tensors, [False, True]))
    assert layout != StateLayout.of(tensors, [False, True], page_bytes=528)


def test_a_part_may_have_layers_of_its_own() -> None:
    shapes = [(3, 7, 4, 16, 8), (1, 7, 2), (5, 7, 8, 3)]
    dtypes = [torch.float32, torch.int64, torch.bfloat16]
    tensors = [torch.zeros(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    layout = StateLayout.of(tensors, [True, False, False])
    assert [layout.layers_of(part) for part in layout.parts] == [3, 1, 5]
    assert layout.state_bytes == sum(tensor[:, 0].nbytes for tensor in tensors)
    # What is kept bit for bit comes first, each layer of it from a multiple of 16 bytes.
    exact = layout.segments(Encoding.EXACT)
    assert [exact[index] for index in (1, 2, 0)] == [(0, 16), (16, 48), (16 + 5 * 48, 2048)]
    assert layout.encoded_bytes(Encoding.EXACT) == 16 + 5 * 48 + 3 * 2048


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # heads, rows, columns, groups, rows in a group
        ((128, 64, 128), (128, 64, 128, 1, 64)),
        ((24, 128, 256), (24, 128, 256, 1, 128)),
        ((12, 192, 96), (12, 192, 96, 2, 96)),
        ((2, 129, 5), (2, 129, 5, 2, 65)),
        ((8192, 1, 16), (1, 8192, 16, 64, 128)),
        ((8192, 16), (1, 8192, 16, 64, 128)),
        ((6, 8, 4, 10), (6, 32, 10, 1, 32)),
        ((2, 300), (1, 600, 1, 5, 120)),
        ((70,), (1, 70, 1, 1, 70)),
        ((), (1, 1, 1, 1, 1)),
    ],
)
def test_groups(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert Grouping.of(shape) == expected


@given(st.lists(st.integers(1, 300), max_size=4))
def test_groups_cover_every_element_once(shape: list[int]) -> None:
    grouping = Grouping.of(tuple(shape))
    assert grouping.heads * grouping.rows * grouping.columns == math.prod(shape)
    assert grouping.group_rows <= 128
    assert (grouping.groups - 1) * grouping.group_rows < grouping.rows
    assert grouping.groups * grouping.group_rows >= grouping.rows


@pytest.mark.parametrize("page_bytes", [0, 256, 520, 1000])
def test_page_sizes_refused(page_bytes: int) -> None:
    with pytest.raises(ValueError, match="multiple of 16, at least 512"):
        StateLayout(1, [WINDOW], page_bytes)


def test_layouts_refused() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        StateLayout(0, [WINDOW])
    with pytest.raises(ValueError, match="one dtype"):
        StateLayout(1, [StatePart((3,), torch.float64, True)])
    with pytest.raises(ValueError, match="one dtype"):
        StateLayout(1, [StatePart((3,), dtype, True) for dtype in (torch.float32, torch.half)])
    with pytest.raises(ValueError, match="at least one layer"):
        StateLayout(1, [WINDOW._replace(layers=0)])
    with pytest.raises(ValueError, match="at least one active tensor"):
        StateLayout.of([], [])
