"""Seeded workloads in the shapes of the Marconi paper (arXiv 2411.19379), by name.

They imitate published means of the data sets the paper replays, not the data: who has the data
reads it with `sglang_marconi.traces.formats`.
"""

from typing import Any

from sglang_marconi.traces.generators.agents import SweBench
from sglang_marconi.traces.generators.chats import Lmsys, ShareGpt
from sglang_marconi.traces.generators.distributions import Distribution, Geometric, LogNormal
from sglang_marconi.traces.generators.shape import Shape
from sglang_marconi.traces.requests import TraceRequest

__all__ = [
    "Distribution",
    "Geometric",
    "Lmsys",
    "LogNormal",
    "Shape",
    "ShareGpt",
    "SweBench",
    "generate",
    "names",
    "shape_type",
]

_SHAPES: dict[str, type[Shape]] = {"lmsys": Lmsys, "sharegpt": ShareGpt, "swebench": SweBench}


def names() -> tuple[str, ...]:
    """The shapes `generate` knows."""
    return tuple(_SHAPES)


def shape_type(name: str) -> type[Shape]:
    """The settings of the shape of this name.

    Raises `ValueError` for an unknown name.
    """
    shape = _SHAPES.get(name)
    if shape is None:
        raise ValueError(f"no workload is named {name!r}; known are {', '.join(_SHAPES)}")
    return shape


def generate(name: str, **settings: Any) -> list[TraceRequest]:
    """The requests of the shape of this name, in order of arrival; `settings` are `Shape`'s.

    Raises `ValueError` for an unknown name, `TypeError` for an unknown setting.
    """
    return shape_type(name)(**settings).requests()
