"""A buffer of pages of one size, and which of them are free."""

from __future__ import annotations

import torch


class PageArena:
    """``pages`` pages of ``page_bytes`` bytes each in one buffer, none of them ever zeroed.

    Pages are handed out one by one in any order, so nothing fragments; taking and giving back
    take time in proportion to their number. The order depends on the calls alone, so that it is
    the same on every rank. ``reserved`` pages are kept back for what must not fail, such as the
    room that a checkpoint needs while it is re-encoded.

    Args:
        pinned: host memory that the device can copy to and from on its own.
    """

    def __init__(
        self,
        pages: int,
        page_bytes: int,
        *,
        device: torch.device,
        reserved: int = 0,
        pinned: bool = False,
    ) -> None:
        self.pages = pages
        self.reserved = reserved
        # Shape [pages, page_bytes].
        self.buffer = torch.empty(
            (pages, page_bytes), dtype=torch.uint8, device=device, pin_memory=pinned
        )
        self.clear()

    def clear(self) -> None:
        """All pages are free."""
        # The last one goes first: pages just given back are the likeliest to be in a cache.
        self._free = list(range(self.pages - 1, -1, -1))

    @property
    def available(self) -> int:
        """Free pages beside the reserved ones; negative while those are in use."""
        return len(self._free) - self.reserved

    def take(self, count: int, *, from_reserve: bool = False) -> list[int] | None:
        """Numbers of ``count`` pages, now in use; ``None``, and none taken, where they lack."""
        if count > (len(self._free) if from_reserve else self.available):
            return None
        kept = len(self._free) - count
        taken = self._free[kept:]
        del self._free[kept:]
        return taken

    def give_back(self, pages: list[int]) -> None:
        """The pages are free again; what they hold may be overwritten from now on."""
        self._free.extend(pages)
