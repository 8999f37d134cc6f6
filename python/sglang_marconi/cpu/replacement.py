"""What a replacement is: something of SGLang that makes way, and what comes instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from sglang_marconi.seams import Kind, Seam


class Replacement(NamedTuple):
    """What of SGLang makes way, and what is called instead, or afterwards."""

    seam: Seam
    ours: Callable[..., Any]


def same(target: str, ours: Callable[..., Any], purpose: str) -> Replacement:
    """A replacement whose parameters are SGLang's, name by name."""
    parameters = ", ".join(inspect.signature(ours).parameters)
    return Replacement(Seam(target, parameters, Kind.REPLACE, purpose), ours)
