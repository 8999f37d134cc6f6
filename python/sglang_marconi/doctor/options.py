"""The few of SGLang's arguments that must be known before SGLang reads them itself."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from sglang_marconi.settings.schema import (
    OPTION,
    Effective,
    SettingsError,
    given_in_option,
    merge_settings,
)

SETTINGS_REMEDY = "`sglang-marconi config` shows what is allowed"


class Options(NamedTuple):
    """As given on the command line; ``None`` where they are not."""

    model: str | None
    device: str | None
    backend: str | None
    settings: str | None
    file: str | None


def read_options(arguments: Sequence[str]) -> Options:
    """Look for the options; what else there is, is left to SGLang."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False, add_help=False)
    parser.add_argument("--model-path", "--model", nargs="?")
    parser.add_argument("--device", nargs="?")
    parser.add_argument("--radix-cache-backend", nargs="?")
    parser.add_argument(OPTION, dest="settings", nargs="?")
    parser.add_argument("--config", nargs="?")
    found, _ = parser.parse_known_args(arguments)
    return Options(
        found.model_path, found.device, found.radix_cache_backend, found.settings, found.config
    )


def read_settings(text: str | None) -> Effective:
    """Check settings as they stand on a command line.

    Raises:
        SettingsError: they are not JSON, or not valid.
    """
    try:
        given = None if text is None else msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise SettingsError(f"{OPTION}: {text!r} is not JSON: {error}") from error
    return merge_settings(given_in_option(given))
