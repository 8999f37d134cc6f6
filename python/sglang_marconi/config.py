"""Every setting of the backend, its default and its bounds.

The settings arrive as the JSON object of ``--radix-eviction-policy-config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

# Recency and FLOP efficiency weigh the same, as long as nothing tunes alpha.
DEFAULT_ALPHA = 1.0


class SettingsError(ValueError):
    """A setting has an unknown name or a value outside its bounds."""


class Settings(msgspec.Struct, frozen=True):
    """The backend's settings.

    Attributes:
        alpha: weight of FLOP efficiency against recency in the utility of a checkpoint, 0 or
            more; 0 evicts the least recently used. ``None``: to be tuned while serving;
            until this version can, ``DEFAULT_ALPHA``.
        outgrown_first: evict states that their own conversation has grown past before all
            others. ``False``: they compete with the others, as in the paper.
        cost: what a hit is worth. ``flops``: the model's prefill FLOPs; ``tokens``: its
            length, for a model whose layers the cost model has no formula for.
    """

    alpha: Annotated[float, msgspec.Meta(ge=0)] | None = None
    outgrown_first: bool = True
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
    return msgspec.convert(dict(given), Settings)
