"""Hooks: SGLang calls a function of ours at a seam of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_marconi.seams.seam import Seam


def hook(seam: Seam, function: Callable[..., Any]) -> None:
    """Have SGLang call ``function`` as the seam's kind says, once hooks are applied.

    Around what was replaced already, as operations are on a CPU, it is called nevertheless.

    Raises:
        KeyError: the seam is not one for a hook.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    kinds = {kind for kind, *_ in HookRegistry._hooks[seam.target]}
    if kinds == {HookType.REPLACE}:
        # SGLang applies what a target has once; what replaces it may be applied again.
        HookRegistry._patched.discard(seam.target)
    HookRegistry.register(seam.target, function, HookType[seam.kind.name])


def apply_hooks() -> None:
    """Apply those that were registered since SGLang loaded its plugins, after which it did."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    HookRegistry.apply_hooks()
