"""Hooks: SGLang calls a function of ours at a seam of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_marconi.seams.seam import Seam


def hook(seam: Seam, function: Callable[..., Any]) -> None:
    """Have SGLang call ``function`` as the seam's kind says, once hooks are applied.

    Raises:
        KeyError: the seam is not one for a hook.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(seam.target, function, HookType[seam.kind.name])


def apply_hooks() -> None:
    """Apply those that were registered since SGLang loaded its plugins, after which it did."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    HookRegistry.apply_hooks()
