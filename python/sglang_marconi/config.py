"""Every setting of the backend, its default and its bounds.

The settings arrive as the JSON object of ``--radix-eviction-policy-config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec


class SettingsError(ValueError):
    """A setting has an unknown name or a value outside its bounds."""


class Settings(msgspec.Struct, frozen=True):
    """The backend's settings.

    Attributes:
        policy: what is evicted. ``auto``: what is least likely to be used again soon, for what a
            hit on it saves and the bytes it holds; it needs no parameter. ``marconi``: the
            paper's utility.
        alpha: with ``marconi``, the weight of FLOP efficiency against recency, 0 or more; 0
            evicts the least recently used. ``None``: tuned while serving.
        cost: what a hit is worth. ``flops``: the model's prefill FLOPs; ``tokens``: its
            length, for a model whose layers the cost model has no formula for.
    """

    policy: Literal["auto", "marconi"] = "auto"
    alpha: Annotated[float, msgspec.Meta(ge=0)] | None = None
    cost: Literal["flops", "tokens"] = "flops"


def parse_settings(given: Mapping[str, Any] | None) -> Settings:
    """Check the JSON object of ``--radix-eviction-policy-config``.

    Raises:
        SettingsError: names the key, the value it was given and what is allowed.
    """
    if given is None:
        return Settings()
    if not isinstance(given, Mapping):
        raise SettingsError(f"--radix-eviction-policy-config must be a JSON object, got {given!r}")
    allowed = {field.name: field for field in msgspec.structs.fields(Settings)}
    for key, value in given.items():
        if key not in allowed:
            names = ", ".join(sorted(allowed)) or "none"
            raise SettingsError(
                f"--radix-eviction-policy-config: unknown key {key!r} (value {value!r}) for "
                f"--radix-cache-backend marconi; allowed keys: {names}"
            )
        try:
            msgspec.convert(value, allowed[key].type)
        except msgspec.ValidationError as error:
            raise SettingsError(
                f"--radix-eviction-policy-config: {key} = {value!r} is not allowed: {error}"
            ) from error
    settings = msgspec.convert(dict(given), Settings)
    if settings.alpha is not None and settings.policy != "marconi":
        raise SettingsError(
            f"--radix-eviction-policy-config: alpha = {settings.alpha!r} is for "
            '"policy": "marconi"; "auto" takes no parameter'
        )
    return settings
