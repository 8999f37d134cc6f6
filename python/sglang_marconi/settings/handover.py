"""Settings on their way from the process that checked them to the others of a server.

They travel in SGLang's arguments, in place of the JSON object that was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sglang_marconi.settings.schema import OPTION, Settings, SettingsError


def to_resolved(settings: Settings) -> dict[str, Any]:
    """Every setting, those at their defaults too, as JSON has them."""
    resolved: dict[str, Any] = msgspec.to_builtins(settings)
    return resolved


def settings_from_resolved(resolved: Mapping[str, Any] | None) -> Settings:
    """The settings of ``to_resolved``, which were checked.

    Raises:
        SettingsError: they are none of those; the process that started the server did not run
            this plugin, or another version of it.
    """
    if resolved is None or set(resolved) != set(Settings.__struct_fields__):
        raise SettingsError(
            f"{OPTION}: the process that started this server did not hand on the settings of "
            "this sglang-marconi"
        )
    return msgspec.convert(resolved, Settings)
