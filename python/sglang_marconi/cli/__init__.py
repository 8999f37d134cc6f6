"""The command ``sglang-marconi``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

_PURPOSE = "Check a server, size its memory, replay traces."

# Each one is a module here with add_arguments(parser), run(parsed), which returns the exit
# status, and ERRORS, what can go wrong. Only the module of the chosen command is imported.
_COMMANDS = {
    "doctor": "whether a server would start here, and what it would do",
    "config": "the backend's settings: what there is, and whether yours are right",
    "set": "change the policy of a running server",
    "explain": "what a cache's memory holds, and what a hit saves",
    "verify": "whether reuse changes the answers of a running server",
    "replay": "what a cache would reuse of a trace",
    "report": "draw the report of a replay again",
}
# Commands whose arguments after `--` are another program's.
_PASSING_ON = {"doctor"}
# What the extra `lab` installs, and a server's installation need not have.
LAB_PACKAGES = frozenset({"matplotlib", "openai", "tokenizers"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what can go wrong is one line on standard error and exit status 1.

    A package of the extra ``lab`` that is not installed: exit status 2.
    """
    try:
        _run(list(sys.argv[1:] if arguments is None else arguments))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in LAB_PACKAGES:
            raise
        print(
            f"sglang-marconi: this needs the package {package}, which the extra lab installs: "
            "pip install 'sglang-marconi[lab]'",
            file=sys.stderr,
        )
        sys.exit(2)


def _run(arguments: list[str]) -> None:
    after_dashes: list[str] = []
    if _PASSING_ON.intersection(arguments[:1]) and "--" in arguments:
        dashes = arguments.index("--")
        arguments, after_dashes = arguments[:dashes], arguments[dashes + 1 :]
    parser = argparse.ArgumentParser(prog="sglang-marconi", description=_PURPOSE)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, purpose in _COMMANDS.items():
        of_command = commands.add_parser(name, help=purpose, description=purpose)
        if name in arguments[:1]:
            command = import_module(f"sglang_marconi.cli.{name}")
            command.add_arguments(of_command)
    parsed = parser.parse_args(arguments, argparse.Namespace(after_dashes=after_dashes))
    try:
        status = command.run(parsed)
    except command.ERRORS as error:
        sys.exit(f"sglang-marconi: {error}")
    if status:
        sys.exit(status)
