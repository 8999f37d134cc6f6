"""Runs of bytes that lie together in a slot and in one page: a table of them, and its readers.

In the device functions, `run` points to a row of the table, and BLOCK is `BLOCK_BYTES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import triton.language as tl

from ..grouping import ALIGNMENT
from ..launch import BLOCK_BYTES, NARROW_STEP, device_function


class Run(NamedTuple):
    """A row of the table: bytes that lie together in a slot and in one page of the image."""

    address: int
    """Of the first byte in slot 0."""
    slot_stride: int
    page: int
    """Which of the state's pages."""
    offset: int
    """In that page; a multiple of 16."""
    nbytes: int
    wide: int
    """1 where addresses, strides and `nbytes` are multiples of 16, else 0."""


def cut_runs(
    address: int, slot_stride: int, nbytes: int, start: int, page_bytes: int
) -> Iterator[Run]:
    """`nbytes` of a layer at byte `start` of the image, cut where a page ends.

    `address` and `slot_stride`, in bytes, say where the layer lies in slots.
    """
    done = 0
    while done < nbytes:
        page, offset = divmod(start + done, page_bytes)
        count = min(BLOCK_BYTES, page_bytes - offset, nbytes - done)
        wide = all(size % ALIGNMENT == 0 for size in (address + done, slot_stride, count))
        yield Run(address + done, slot_stride, page, offset, count, int(wide))
        done += count


RUN_FIELDS = tl.constexpr(len(Run._fields))
_ADDRESS = tl.constexpr(Run._fields.index("address"))
_SLOT_STRIDE = tl.constexpr(Run._fields.index("slot_stride"))
_PAGE = tl.constexpr(Run._fields.index("page"))
_OFFSET = tl.constexpr(Run._fields.index("offset"))
_NBYTES = tl.constexpr(Run._fields.index("nbytes"))
_WIDE = tl.constexpr(Run._fields.index("wide"))

_NARROW_STEP = tl.constexpr(NARROW_STEP)


@device_function
def run_in_slot(run: tl.tensor, slot: tl.tensor) -> tl.tensor:
    """Pointer to the run's first byte in an int64 slot."""
    address = tl.load(run + _ADDRESS) + slot * tl.load(run + _SLOT_STRIDE)
    return address.to(tl.pointer_type(tl.uint8))


@device_function
def run_in_pages(
    run: tl.tensor, pages: tl.tensor, numbers: tl.tensor, PAGE_BYTES: tl.constexpr
) -> tl.tensor:
    """Pointer to the run's first byte in the state whose int32 page numbers are at `numbers`."""
    page = tl.load(numbers + tl.load(run + _PAGE)).to(tl.int64)
    return pages + page * PAGE_BYTES + tl.load(run + _OFFSET)


@device_function
def copy_run(source: tl.tensor, target: tl.tensor, run: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Copies a run between a slot and pages."""
    if tl.load(run + _WIDE) != 0:
        copy_vectors(source, target, tl.load(run + _NBYTES), BLOCK)
    else:
        nbytes = tl.load(run + _NBYTES)
        for start in range(0, nbytes, _NARROW_STEP):
            byte = start + tl.arange(0, _NARROW_STEP)
            valid = byte < nbytes
            tl.store(target + byte, tl.load(source + byte, mask=valid), mask=valid)


@device_function
def copy_padded_run(
    source: tl.tensor, target: tl.tensor, run: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """Copies a run between pages, where it starts a vector and padding fills up its last one."""
    copy_vectors(source, target, (tl.load(run + _NBYTES) + 15) // 16 * 16, BLOCK)


@device_function
def copy_vectors(
    source: tl.tensor, target: tl.tensor, nbytes: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """Copies bytes between addresses; these and their number are multiples of 16."""
    word = tl.arange(0, BLOCK // 8)
    valid = word < tl.multiple_of(nbytes // 8, 2)
    origin = tl.multiple_of(source.to(tl.pointer_type(tl.int64)), 16)
    goal = tl.multiple_of(target.to(tl.pointer_type(tl.int64)), 16)
    tl.store(goal + word, tl.load(origin + word, mask=valid), mask=valid)


@device_function
def zero_run(target: tl.tensor, run: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Zeroes a run in a slot."""
    nbytes = tl.load(run + _NBYTES)
    if tl.load(run + _WIDE) != 0:
        word = tl.arange(0, BLOCK // 8)
        goal = tl.multiple_of(target.to(tl.pointer_type(tl.int64)), 16)
        zeros = tl.zeros([BLOCK // 8], tl.int64)
        tl.store(goal + word, zeros, mask=word < tl.multiple_of(nbytes // 8, 2))
    else:
        for start in range(0, nbytes, _NARROW_STEP):
            byte = start + tl.arange(0, _NARROW_STEP)
            tl.store(target + byte, tl.zeros([_NARROW_STEP], tl.uint8), mask=byte < nbytes)
