"""``sglang-marconi doctor``."""

from __future__ import annotations

import argparse
import os

import msgspec
from rich.table import Table
from rich.text import Text

from sglang_marconi.cli.output import console
from sglang_marconi.doctor import Finding, examine

ERRORS = ()

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "sglang-marconi doctor [-h] [--json] [MODEL] [-- SGLANG ARGUMENTS]"
    parser.epilog = (
        "After -- come a server's arguments, as `sglang serve` takes them. "
        "Exit status: 0 without a problem, 1 with one, 2 for wrong usage."
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="what --model-path takes; it is not loaded"
    )
    parser.add_argument("--json", action="store_true", help="an array of an object a check")


def run(args: argparse.Namespace) -> int:
    findings = examine(args.model, args.after_dashes, os.environ)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(findings)).decode())
    else:
        console().print(_table(findings))
    return int(any(finding.status == "problem" for finding in findings))


def _table(findings: list[Finding]) -> Table:
    table = Table("check", "", "found", "remedy", show_lines=True)
    for finding in findings:
        status = Text(finding.status, style=_STYLES[finding.status])
        table.add_row(Text(finding.check), status, Text(finding.found), Text(finding.remedy))
    return table
