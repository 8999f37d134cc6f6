"""The model that most servers of the tests run."""

from __future__ import annotations

from pathlib import Path

from tiny_model import build_tiny_model

_PATTERN = "MM*"
"""Two layers' states and KV, that can be mixed up; a pass takes half as long as the demo's."""


def build_shallow_model(path: Path, *, seed: int = 0) -> Path:
    """Like ``build_tiny_model``, with half as many layers of each kind that has a cache."""
    return build_tiny_model(path, seed=seed, pattern=_PATTERN)
