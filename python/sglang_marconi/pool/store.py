"""Checkpoints of recurrent state in pages: stored, loaded, demoted, moved to the host and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from marconi_kernels import Encoding, StateLayout, copy_pages, load, reencode, store

from sglang_marconi.policy.forms import Form, forms_of
from sglang_marconi.pool.arena import PageArena, Runs, page_count, page_numbers
from sglang_marconi.pool.host_memory import host_pages
from sglang_marconi.pool.order import PageOrder
from sglang_marconi.pool.sizing import StoreSize


class _Kept(NamedTuple):
    """A checkpoint: the number of its form and the pages that hold it, in order."""

    form: int
    pages: Runs


class CheckpointStore:
    """States of finished prefixes, apart from the slots that running requests compute in.

    A checkpoint owns the pages that its form needs, in any order; it is named by a number that
    stays the same as its form changes. `forms` says which forms there are: exact, then the
    lossy encoding it may be demoted to, then the host, as far as the store has them.

    Nothing here waits for the device: work is queued, and every call may follow the one before at
    once. ``store`` and ``load`` work on the stream that running requests compute on, so a state is
    stored after the passes queued before and before those queued later, and a slot is filled
    likewise. Which stream that is, ``serve_on`` says. Moves to and from the host have a stream of
    their own: they wait for what was queued on the checkpoint that moves, not for requests, and
    only what uses that checkpoint, or the pages it left, waits for them (`PageOrder`).

    Args:
        layout: what a state consists of and how it is cut into pages.
        size: pages on the device and on the host.
        lossy: the encoding that checkpoints may be demoted to.
        device: where the states of running requests are.
        cuda: what stands in for ``torch.cuda``, for a test.
    """

    def __init__(
        self,
        layout: StateLayout,
        size: StoreSize,
        *,
        lossy: Encoding | None = None,
        device: torch.device,
        cuda: Any | None = None,
    ) -> None:
        if cuda is None and device.type == "cuda":
            cuda = torch.cuda
        self.layout = layout
        self._encodings = [Encoding.EXACT, *([] if lossy is None else [lossy])]
        self._device = device
        self._on_device = PageArena(
            torch.empty((size.device_pages, layout.page_bytes), dtype=torch.uint8, device=device),
            reserved=size.reserved_pages,
        )
        self._on_host = PageArena(host_pages(size.host_pages, layout.page_bytes, cuda=cuda))
        self._order = PageOrder(
            size.device_pages, device=device, moves=size.host_pages > 0, cuda=cuda
        )
        self.forms: tuple[Form, ...] = tuple(
            forms_of(
                self._bytes(Encoding.EXACT),
                None if lossy is None else (lossy.name.lower(), self._bytes(lossy)),
                host=size.host_pages > 0,
            )
        )
        self.clear()

    def _bytes(self, encoding: Encoding) -> int:
        return self.layout.pages(encoding) * self.layout.page_bytes

    # ---- accounting ----

    @property
    def pages(self) -> int:
        """Pages on the device that checkpoints may fill."""
        return self._on_device.pages - self._on_device.reserved

    @property
    def available_pages(self) -> int:
        """Of these, the free ones."""
        return self._on_device.available

    @property
    def host_pages(self) -> int:
        """Pages in host memory."""
        return self._on_host.pages

    @property
    def available_host_pages(self) -> int:
        return self._on_host.available

    @property
    def pages_of_new(self) -> int:
        """Pages that a new checkpoint takes."""
        return self.layout.pages(Encoding.EXACT)

    def form(self, checkpoint: int) -> int:
        """The number of a checkpoint's form."""
        return self._kept[checkpoint].form

    def device_pages(self, checkpoint: int) -> int:
        """Pages that a checkpoint fills on the device."""
        kept = self._kept[checkpoint]
        return 0 if self._is_host(kept.form) else page_count(kept.pages)

    def count(self, form: int) -> int:
        """How many checkpoints are in a form."""
        return sum(kept.form == form for kept in self._kept.values())

    # ---- life of a checkpoint ----

    def allocate(self) -> int | None:
        """A new checkpoint, exact and not yet stored; ``None`` where pages lack."""
        pages = self._on_device.take(self.pages_of_new)
        if pages is None:
            return None
        number = self._numbers.pop() if self._numbers else len(self._kept) + 1
        self._kept[number] = _Kept(0, pages)
        return number

    def free(self, checkpoint: int) -> None:
        """Give a checkpoint's pages back."""
        kept = self._kept.pop(checkpoint)
        self._arena(kept.form).give_back(kept.pages)
        self._numbers.append(checkpoint)

    def clear(self) -> None:
        """Forget all checkpoints."""
        self._kept: dict[int, _Kept] = {}
        # Numbers given back, to be used again; with those in use they are 1, 2, ... without gaps.
        self._numbers: list[int] = []
        self._on_device.clear()
        self._on_host.clear()

    # ---- states ----

    def serve_on(self, stream: torch.cuda.Stream | None) -> None:
        """Requests compute on ``stream``; ``None``: on the one that is current in every call."""
        self._order.stream = stream

    def warm_up(self, active: Sequence[torch.Tensor], spare_slot: int) -> None:
        """Do each kind of work once, so that no request waits for kernels to be compiled.

        The store must be empty; ``spare_slot`` is one that no request computes in. Waits for the
        device, as requests may then come on another stream.
        """
        slots = torch.tensor([spare_slot], device=self._device)
        checkpoint = self.allocate()
        assert checkpoint is not None, "an empty store holds a checkpoint"
        self.store(checkpoint, active, slots)
        for form in range(1, len(self.forms)):
            self.set_form(checkpoint, form)
        self.load([checkpoint], active, slots)
        self.free(checkpoint)
        self.finish()

    def finish(self) -> None:
        """Wait for all work that was queued: the memory may be taken away after that."""
        self._order.finish()

    def store(self, checkpoint: int, active: Sequence[torch.Tensor], slots: torch.Tensor) -> None:
        """Copy a running request's state into a new checkpoint.

        ``active``: the tensors that requests compute in, each ``[layers, slots, ...]``.
        ``slots``: int64 ``[1]``, on their device.
        """
        pages = self._kept[checkpoint].pages
        with self._order.beside_requests(pages, slots=slots):
            rows = self._rows([pages])
            store(active, slots, self._on_device.buffer, rows, Encoding.EXACT, self.layout)

    def load(
        self, checkpoints: Sequence[int], active: Sequence[torch.Tensor], slots: torch.Tensor
    ) -> None:
        """Copy checkpoints into slots of running requests, the same one into several if asked.

        ``slots``: int64 ``[len(checkpoints)]``, on the device of ``active``.
        """
        kept = [self._kept[number] for number in checkpoints]
        if not any(self._is_host(each.form) for each in kept):
            self._load(kept, active, slots)
            return
        for at, each in enumerate(kept):
            with self._brought(each) as here:
                self._load([here], active, slots[at : at + 1])

    def _load(
        self, kept: Sequence[_Kept], active: Sequence[torch.Tensor], slots: torch.Tensor
    ) -> None:
        pages = [each.pages for each in kept]
        with self._order.beside_requests(*pages, slots=slots):
            encodings = self._integers([self._encoding(each.form) for each in kept])
            load(active, slots, self._on_device.buffer, self._rows(pages), encodings, self.layout)

    @contextmanager
    def _brought(self, kept: _Kept) -> Iterator[_Kept]:
        """A checkpoint with its pages on the device, if only for now."""
        if not self._is_host(kept.form):
            yield kept
            return
        pages = self._on_device.take(page_count(kept.pages), from_reserve=True)
        assert pages is not None, "the reserve is larger than any checkpoint that goes to the host"
        with self._order.as_move(pages):
            self._copy(self._on_host, kept.pages, self._on_device, pages)
        yield _Kept(kept.form - 1, pages)
        self._on_device.give_back(pages)

    # ---- forms ----

    def set_form(self, checkpoint: int, form: int) -> int | None:
        """Hold a checkpoint in the next form, or take it back from the host.

        Returns the pages freed on the device, negative where some were taken; ``None``, and
        nothing is done, where there is no room for it.
        """
        kept = self._kept[checkpoint]
        assert abs(form - kept.form) == 1, "one step at a time"
        moves = self._is_host(form) or self._is_host(kept.form)
        pages = self._move(kept, form) if moves else self._reencode(kept, form)
        if pages is None:
            return None
        before = self.device_pages(checkpoint)
        self._arena(kept.form).give_back(kept.pages)
        self._kept[checkpoint] = _Kept(form, pages)
        return before - self.device_pages(checkpoint)

    def _reencode(self, kept: _Kept, form: int) -> Runs:
        source, target = self._encoding(kept.form), self._encoding(form)
        pages = self._on_device.take(self.layout.pages(target), from_reserve=True)
        assert pages is not None, "the reserve has room for a demoted checkpoint"
        with self._order.beside_requests(kept.pages, pages):
            buffer, rows = self._on_device.buffer, self._rows([kept.pages])
            reencode(buffer, rows, source, self._rows([pages]), target, self.layout)
        return pages

    def _move(self, kept: _Kept, form: int) -> Runs | None:
        source, target = self._arena(kept.form), self._arena(form)
        pages = target.take(page_count(kept.pages))
        if pages is not None:
            # Pages on the host are touched by moves alone, which are in order.
            with self._order.as_move(pages if source is self._on_host else kept.pages):
                self._copy(source, kept.pages, target, pages)
        return pages

    def _copy(self, source: PageArena, here: Runs, target: PageArena, there: Runs) -> None:
        copy_pages(source.buffer, page_numbers(here), target.buffer, page_numbers(there))

    def _is_host(self, form: int) -> bool:
        return self.forms[form].host_bytes > 0

    def _arena(self, form: int) -> PageArena:
        return self._on_host if self._is_host(form) else self._on_device

    def _encoding(self, form: int) -> Encoding:
        # On the host a checkpoint is as it was before.
        return self._encodings[form - self._is_host(form)]

    # ---- launches ----

    def _rows(self, pages: Sequence[Runs]) -> torch.Tensor:
        """Page numbers, int32 ``[checkpoints, most pages]``; beyond the last they are ignored."""
        rows = [page_numbers(runs) for runs in pages]
        width = max(map(len, rows))
        return self._integers([row + [0] * (width - len(row)) for row in rows])

    def _integers(self, numbers: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        """int32 on the device, without waiting for it."""
        pinned = self._device.type == "cuda"
        host = torch.tensor(numbers, dtype=torch.int32, pin_memory=pinned)
        return host.to(self._device, non_blocking=True)
