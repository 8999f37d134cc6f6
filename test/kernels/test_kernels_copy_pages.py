"""Pages between a device's buffer and the host's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marconi_kernels import copy_pages

PAGES, PAGE_BYTES = 12, 512
numbers = st.permutations(range(PAGES))


def random_pages(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (PAGES, PAGE_BYTES), generator=generator, dtype=torch.uint8)


@given(numbers, numbers, st.integers(0, PAGES), st.booleans())
def test_pages_arrive_and_no_others_change(
    source_pages: list[int], target_pages: list[int], count: int, in_order: bool
) -> None:
    here, there = source_pages[:count], target_pages[:count]
    if in_order:
        here, there = sorted(here), sorted(there)
    source, target = random_pages(1), random_pages(2)
    wanted = target.clone()
    for one, other in zip(here, there, strict=True):
        wanted[other] = source[one]
    copy_pages(source, here, target, there)
    assert torch.equal(target, wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_to_the_host_and_back() -> None:
    device = random_pages(1).cuda()
    host = torch.zeros_like(random_pages(1)).pin_memory()
    back = torch.zeros_like(device)
    copy_pages(device, [3, 4, 5, 9], host, [0, 1, 7, 2])
    copy_pages(host, [0, 1, 7, 2], back, [9, 8, 7, 6])
    torch.cuda.synchronize()
    assert torch.equal(back[[9, 8, 7, 6]], device[[3, 4, 5, 9]])


def test_neighbours_go_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    monkeypatch.setattr(
        torch.Tensor, "copy_", lambda self, other, non_blocking: copied.append(len(other))
    )
    source, target = random_pages(1), random_pages(2)
    copy_pages(source, [1, 2, 3, 7, 8, 4], target, [5, 6, 7, 8, 9, 10])
    assert copied == [3, 2, 1]


def test_arguments_refused() -> None:
    pages = random_pages(1)
    with pytest.raises(ValueError, match="contiguous uint8"):
        copy_pages(pages.float(), [0], pages, [0])
    with pytest.raises(ValueError, match="cannot copy 2 pages"):
        copy_pages(pages, [0, 1], random_pages(2), [0])
    with pytest.raises(ValueError, match="cannot copy 1 pages"):
        copy_pages(pages, [0], torch.zeros(3, 16, dtype=torch.uint8), [0])
    for number in (-1, PAGES):
        with pytest.raises(IndexError, match="from 0 to 11"):
            copy_pages(pages, [number], random_pages(2), [0])
