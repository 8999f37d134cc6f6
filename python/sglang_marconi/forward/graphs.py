"""Passes that leave states run without a graph, whose replay would call no operation of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_marconi.forward.plan import current


def can_run_graph(original: Callable[..., bool], runner: Any, batch: Any) -> bool:
    """Around ``PrefillCudaGraphRunner.can_run_graph``."""
    return current() is None and original(runner, batch)
