"""What commands print."""

from __future__ import annotations

from rich.console import Console

_FILE_WIDTH = 140


def console() -> Console:
    """Standard output; where it goes to a file, a table is not cut to a terminal's width."""
    return Console(width=None if Console().is_terminal else _FILE_WIDTH)
