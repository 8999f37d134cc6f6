"""Checkpoints of recurrent state in pages: stored, loaded, demoted, moved to the host and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from marconi_kernels import Encoding, StateLayout, copy_pages, load, reencode, store

from sglang_marconi.policy.forms import Form, forms_of
from sglang_marconi.pool.arena import PageArena
from sglang_marconi.pool.sizing import StoreSize


class _Kept(NamedTuple):
    """A checkpoint: the number of its form and the pages that hold it, in order."""

    form: int
    pages: list[int]


class CheckpointStore:
    """States of finished prefixes, apart from the slots that running requests compute in.

    A checkpoint owns the pages that its form needs, in any order; it is named by a number that
    stays the same as its form changes. `forms` says which forms there are: exact, then the
    lossy encoding it may be demoted to, then the host, as far as the store has them.

    All work on the device is ordered on ``stream`` (``None``: on the current one), which must be
    the one that running requests compute on: a state is stored after the pass that makes it and
    before the next one changes it, and pages are written only after what read them before.

    Args:
        layout: what a state consists of and how it is cut into pages.
        size: pages on the device and on the host.
        lossy: the encoding that checkpoints may be demoted to.
        device: where the states of running requests are.
    """

    def __init__(
        self,
        layout: StateLayout,
        size: StoreSize,
        *,
        lossy: Encoding | None = None,
        device: torch.device,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        self.layout = layout
        self._encodings = [Encoding.EXACT, *([] if lossy is None else [lossy])]
        self._device = device
        self.stream = stream
        self._on_device = PageArena(
            size.device_pages, layout.page_bytes, device=device, reserved=size.reserved_pages
        )
        self._on_host = PageArena(
            size.host_pages,
            layout.page_bytes,
            device=torch.device("cpu"),
            pinned=device.type == "cuda",
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
        return 0 if self._is_host(kept.form) else len(kept.pages)

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

    def warm_up(self, active: Sequence[torch.Tensor], spare_slot: int) -> None:
        """Do each kind of work once, so that no request waits for kernels to be compiled.

        The store must be empty; ``spare_slot`` is one that no request computes in.
        """
        slots = torch.tensor([spare_slot], device=self._device)
        checkpoint = self.allocate()
        assert checkpoint is not None, "an empty store holds a checkpoint"
        self.store(checkpoint, active, slots)
        for form in range(1, len(self.forms)):
            self.set_form(checkpoint, form)
        self.load([checkpoint], active, slots)
        self.free(checkpoint)

    def store(self, checkpoint: int, active: Sequence[torch.Tensor], slots: torch.Tensor) -> None:
        """Copy a running request's state into a new checkpoint.

        ``active``: the tensors that requests compute in, each ``[layers, slots, ...]``.
        ``slots``: int64 ``[1]``, on their device.
        """
        with self._ordered(slots):
            rows = self._rows([self._kept[checkpoint].pages])
            store(active, slots, self._on_device.buffer, rows, Encoding.EXACT, self.layout)

    def load(
        self, checkpoints: Sequence[int], active: Sequence[torch.Tensor], slots: torch.Tensor
    ) -> None:
        """Copy checkpoints into slots of running requests, the same one into several if asked.

        ``slots``: int64 ``[len(checkpoints)]``, on the device of ``active``.
        """
        with self._ordered(slots):
            on_device = [not self._is_host(self._kept[number].form) for number in checkpoints]
            if all(on_device):
                self._load([self._kept[number] for number in checkpoints], active, slots)
                return
            for at, number in enumerate(checkpoints):
                with self._brought(self._kept[number]) as kept:
                    self._load([kept], active, slots[at : at + 1])

    def _load(
        self, kept: Sequence[_Kept], active: Sequence[torch.Tensor], slots: torch.Tensor
    ) -> None:
        encodings = self._integers([self._encoding(each.form) for each in kept])
        rows = self._rows([each.pages for each in kept])
        load(active, slots, self._on_device.buffer, rows, encodings, self.layout)

    @contextmanager
    def _brought(self, kept: _Kept) -> Iterator[_Kept]:
        """A checkpoint with its pages on the device, if only for now."""
        if not self._is_host(kept.form):
            yield kept
            return
        pages = self._on_device.take(len(kept.pages), from_reserve=True)
        assert pages is not None, "the reserve is larger than any checkpoint that goes to the host"
        copy_pages(self._on_host.buffer, kept.pages, self._on_device.buffer, pages)
        yield _Kept(kept.form - 1, pages)
        # What overwrites them comes later on the same stream.
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

    def _reencode(self, kept: _Kept, form: int) -> list[int]:
        source, target = self._encoding(kept.form), self._encoding(form)
        pages = self._on_device.take(self.layout.pages(target), from_reserve=True)
        assert pages is not None, "the reserve has room for a demoted checkpoint"
        with self._ordered():
            reencode(
                self._on_device.buffer,
                self._rows([kept.pages]),
                source,
                self._rows([pages]),
                target,
                self.layout,
            )
        return pages

    def _move(self, kept: _Kept, form: int) -> list[int] | None:
        source, target = self._arena(kept.form), self._arena(form)
        pages = target.take(len(kept.pages))
        if pages is not None:
            with self._ordered():
                copy_pages(source.buffer, kept.pages, target.buffer, pages)
        return pages

    def _is_host(self, form: int) -> bool:
        return self.forms[form].host_bytes > 0

    def _arena(self, form: int) -> PageArena:
        return self._on_host if self._is_host(form) else self._on_device

    def _encoding(self, form: int) -> Encoding:
        # On the host a checkpoint is as it was before.
        return self._encodings[form - self._is_host(form)]

    # ---- launches ----

    @contextmanager
    def _ordered(self, slots: torch.Tensor | None = None) -> Iterator[None]:
        """Work queued inside runs on the store's stream, after what is queued now."""
        current = None if self.stream is None else torch.cuda.current_stream(self._device)
        if self.stream is None or current == self.stream:
            yield
            return
        assert current is not None
        self.stream.wait_stream(current)
        if slots is not None:
            # Its memory must not be used for something else before this stream has read it.
            slots.record_stream(self.stream)
        with torch.cuda.stream(self.stream):
            yield

    def _rows(self, pages: Sequence[list[int]]) -> torch.Tensor:
        """Page numbers, int32 ``[checkpoints, most pages]``; beyond the last they are ignored."""
        width = max(map(len, pages))
        return self._integers([row + [0] * (width - len(row)) for row in pages])

    def _integers(self, numbers: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        """int32 on the device, without waiting for it."""
        pinned = self._device.type == "cuda"
        host = torch.tensor(numbers, dtype=torch.int32, pin_memory=pinned)
        return host.to(self._device, non_blocking=True)
