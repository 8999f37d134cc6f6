"""``sglang-marconi config``."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from sglang_marconi.cli.output import console
from sglang_marconi.settings.schema import (
    FILE_KEY,
    OPTION,
    Given,
    SettingsError,
    describe_settings,
    given_in_file,
    given_in_option,
    merge_settings,
)

ERRORS = (SettingsError,)

_SET = "--set"
_DEFAULT = "default"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"The last of --file, {OPTION} and {_SET} counts if several give a setting."
    parser.add_argument("--file", metavar="TOML", help="settings in a TOML file, to be checked")
    parser.add_argument(OPTION, dest="option", metavar="JSON", help="what a server would be given")
    parser.add_argument(
        _SET,
        dest="pairs",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="one setting; the value as JSON, or as it is where it is none",
    )
    parser.add_argument("--json", action="store_true", help="an array of an object a setting")


def run(args: argparse.Namespace) -> int:
    givens = [given_in_file(args.file)] if args.file is not None else []
    givens += given_in_option(_decoded(args.option)) if args.option is not None else []
    givens += [Given(_SET, dict([pair(text)])) for text in args.pairs]
    effective = merge_settings(givens)
    records = [
        {
            "key": key,
            "allowed": allowed,
            "default": default,
            "description": text,
            "value": getattr(effective.settings, key),
            "source": effective.sources.get(key, _DEFAULT),
        }
        for key, allowed, default, text in describe_settings()
    ]
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(records)).decode())
        return 0
    shown = console()
    shown.print(_table(records, with_values=bool(givens)))
    shown.print(
        f"{OPTION} takes them as a JSON object, whose key {FILE_KEY!r} may name a TOML file of "
        "them; the object's other keys override the file's.",
        markup=False,
        highlight=False,
    )
    return 0


def _table(records: list[dict[str, Any]], *, with_values: bool) -> Table:
    table = Table("setting", "allowed", "default")
    if with_values:
        table.add_column("value")
        table.add_column("from")
    table.add_column("what it does", ratio=1)
    for record in records:
        cells = [record["key"], record["allowed"], _json(record["default"])]
        if with_values:
            cells += [_json(record["value"]), record["source"]]
        table.add_row(*map(Text, cells), Text(record["description"].replace("`", "")))
    return table


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise SettingsError(f"{OPTION}: {text!r} is not JSON: {error}") from error


def pair(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``, the value as JSON, or as it is where it is none."""
    key, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"{text!r}: expected KEY=VALUE")
    try:
        return key, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return key, value
