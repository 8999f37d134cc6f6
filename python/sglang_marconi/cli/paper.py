"""``sglang-marconi paper``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sglang_marconi.cli.arguments import add_jobs, add_latency, add_tokenizer
from sglang_marconi.replay.batch import progress_bar
from sglang_marconi.replay.formats import TraceError, TraceFileError
from sglang_marconi.replay.latency import LatencyProfile, LatencyProfileError
from sglang_marconi.replay.paper import run_paper
from sglang_marconi.replay.sources import SourceError, load_trace

ERRORS = (OSError, LatencyProfileError, SourceError, TraceError, TraceFileError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> int:
    traces = [load_trace(spec, tokenizer=args.tokenizer) for spec in args.traces or ()]
    with progress_bar() as progress:
        page = run_paper(
            args.out,
            quick=args.quick,
            workers=args.jobs,
            progress=progress,
            traces=traces or None,
            latency=LatencyProfile.read(args.latency) if args.latency else None,
        )
    print(page)
    return 0
