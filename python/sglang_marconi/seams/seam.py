"""A seam: one thing of SGLang that this package touches."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """How a seam is touched. The hooks have the names that SGLang's ``HookType`` gives them."""

    REGISTRY = "public registry"
    BEFORE = "hook before"
    AFTER = "hook after"
    AROUND = "hook around"
    REPLACE = "replaced"
    OVERRIDE = "overridden"
    CALL = "called"
    READ = "read"
    WRITE = "written"


class Seam(NamedTuple):
    """One thing of SGLang that this package touches.

    Attributes:
        target: its dotted path.
        parameters: names of its parameters as our code relies on them, in order; ``...`` at the
            end allows others after them. ``None`` for what is no function.
        kind: what we do with it.
        purpose: what for.
    """

    target: str
    parameters: str | None
    kind: Kind
    purpose: str

    @property
    def module(self) -> str:
        """The module that the target is in: of its parts, those before a class or a constant."""
        parts = self.target.split(".")
        classes = [at for at, part in enumerate(parts) if part.lstrip("_")[:1].isupper()]
        return ".".join(parts[: classes[0] if classes else -1])

    @property
    def name(self) -> str:
        """The target's name inside its module."""
        return self.target.removeprefix(f"{self.module}.")
