"""Numbers of bytes as people write them."""

from __future__ import annotations

_UNITS = {"": 1.0, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def parse_bytes(text: str) -> int:
    """``"2GB"`` as bytes: GB is 10^9.

    Raises:
        ValueError: it is no size above 0.
    """
    number = text.rstrip("KMGTBkmgtb")
    try:
        amount = int(float(number) * _UNITS[text[len(number) :].upper()])
    except (KeyError, ValueError, OverflowError):
        amount = 0
    if amount <= 0:
        raise ValueError(f"{text!r} is no size; 2GB is one, 500MB too")
    return amount
