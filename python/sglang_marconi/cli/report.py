"""``sglang-marconi report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sglang_marconi.report.write import write_report
from sglang_marconi.traces.sources import SourceError

ERRORS = (OSError, SourceError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="what `replay --report` wrote")


def run(args: argparse.Namespace) -> int:
    try:
        print(write_report(args.folder))
    except ValueError as error:
        raise SourceError(f"{args.folder}: {error}") from error
    return 0
