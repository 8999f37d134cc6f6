"""What a check found."""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """A row of the doctor's table.

    Attributes:
        check: what was looked at; of two findings on the same thing the later one counts.
        status: with a ``problem`` the server does not start, or not with this backend.
        found: what it is.
        remedy: what to do about it, where there is something to do.
    """

    check: str
    status: Status
    found: str
    remedy: str = ""


# In the order in which they are shown.
CHECKS = (
    "python",
    "sglang",
    "torch",
    "triton",
    "plugin",
    "device",
    "loader",
    "seams",
    "settings",
    "model",
    "formula",
    "backend",
    "arguments",
    "prefills",
    "memory",
)
