"""Runs the paper's evaluation again and writes a page with its figures beside these.

PYTHONPATH=scripts python -m evaluation.paper --out paper/ [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sglang_marconi.cli.arguments import add_jobs, add_latency, add_tokenizer
from sglang_marconi.cost.latency import LatencyProfile, LatencyProfileError
from sglang_marconi.simulate.batch import progress_bar
from sglang_marconi.traces.formats import TraceError, TraceFileError
from sglang_marconi.traces.sources import SourceError, load_trace

from evaluation.paper import run_paper

_ERRORS = (OSError, LatencyProfileError, SourceError, TraceError, TraceFileError)


def main(arguments: Sequence[str] | None = None) -> None:
    """What can go wrong is one line on standard error and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="evaluation.paper", description="Run the paper's evaluation again."
    )
    parser.add_argument("--out", type=Path, default=Path("paper"), help="default: %(default)s")
    parser.add_argument(
        "--quick", action="store_true", help="a small part of the grid, in under a minute"
    )
    parser.add_argument(
        "--traces", metavar="TRACE", nargs="+", help="files or workloads instead of the paper's"
    )
    add_tokenizer(parser)
    add_latency(parser)
    add_jobs(parser)
    try:
        print(_run(parser.parse_args(arguments)))
    except _ERRORS as error:
        sys.exit(f"evaluation.paper: {error}")


def _run(args: argparse.Namespace) -> Path:
    traces = [load_trace(spec, tokenizer=args.tokenizer) for spec in args.traces or ()]
    with progress_bar() as progress:
        return run_paper(
            args.out,
            quick=args.quick,
            workers=args.jobs,
            progress=progress,
            traces=traces or None,
            latency=LatencyProfile.read(args.latency) if args.latency else None,
        )


if __name__ == "__main__":
    main()
