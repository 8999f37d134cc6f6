"""``sglang-marconi replay``."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.progress import Progress

from sglang_marconi.cli.arguments import (
    add_jobs,
    add_latency,
    add_tokenizer,
    byte_size,
    count,
    positive,
)
from sglang_marconi.cli.models import load_model
from sglang_marconi.cli.output import console
from sglang_marconi.client.server import ReplayError, replay
from sglang_marconi.client.vocabulary import plain_token_ids
from sglang_marconi.cost import ENCODINGS, ModelCost, UnsupportedModelError, preset_names
from sglang_marconi.cost.latency import LatencyProfile, LatencyProfileError
from sglang_marconi.cost.load import ModelSpecError
from sglang_marconi.cost.sglang_pools import SGLANG_RATIO
from sglang_marconi.records import RequestRecord, RunRecord, run_record, write_records
from sglang_marconi.report.terminal import runs_table
from sglang_marconi.report.write import write_report
from sglang_marconi.simulate.batch import Job, progress_bar, run_batch
from sglang_marconi.simulate.cache import Budget
from sglang_marconi.simulate.policies import NAMES, UNLIMITED, PolicyError, check_policy
from sglang_marconi.simulate.run import Run, Setup
from sglang_marconi.traces.formats import TraceError, TraceFileError
from sglang_marconi.traces.generators import names as workload_names
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.sources import SourceError, load_trace

ERRORS = (
    OSError,
    LatencyProfileError,
    ModelSpecError,
    PolicyError,
    ReplayError,
    SourceError,
    TraceError,
    TraceFileError,
    UnsupportedModelError,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "traces",
        metavar="TRACE",
        nargs="+",
        help=f"a file, or a workload: {', '.join(workload_names())}, with settings as in "
        "swebench:sessions=50,seed=3",
    )
    policies = ", ".join(f"{name} ({what})" for name, what in NAMES.items())
    parser.add_argument(
        "--policy",
        type=_policies,
        help=f"one or more of {policies}; default: auto, or with --server none",
    )
    parser.add_argument(
        "--budget", type=_budgets, default=[5_000_000_000], help="such as 2GB,5GB; GB is 10^9 bytes"
    )
    parser.add_argument(
        "--model",
        default="paper-7b",
        help=f"a config.json, its directory, or one of {', '.join(preset_names())}",
    )
    parser.add_argument(
        "--two-pools",
        type=positive,
        nargs="?",
        const=SGLANG_RATIO,
        metavar="RATIO",
        help="states and KV apart, as SGLang has them: RATIO bytes of states for a byte of KV "
        f"(SGLang's --mamba-full-memory-ratio, default {SGLANG_RATIO})",
    )
    parser.add_argument(
        "--encoding",
        type=_encodings,
        default=["exact"],
        help=f"one or more of {', '.join(ENCODINGS)}: what checkpoints may be demoted to when "
        "memory is short; default: exact, as they are",
    )
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--concurrency",
        type=count,
        help="requests at a time; default: 1, or against a server 4",
    )
    pace.add_argument(
        "--speed",
        type=positive,
        help="keep the trace's arrival times: a server gets requests this many times as fast; "
        "simulated, those of one instant come together",
    )
    server = parser.add_argument_group("against a running server")
    server.add_argument(
        "--server",
        metavar="URL",
        help="send the trace there too, such as http://127.0.0.1:30000; it must run with "
        "--enable-cache-report",
    )
    server.add_argument(
        "--vocabulary",
        type=count,
        default=1000,
        metavar="N",
        help="send token ids below N, or with --tokenizer that tokenizer's; default: %(default)s",
    )
    parser.add_argument("--limit", type=count, help="use the first so many requests")
    add_tokenizer(parser)
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave broken records out, and count them"
    )
    add_latency(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record for each run")
    parser.add_argument(
        "--per-request", type=Path, metavar="FILE", help="write a record for each request"
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="write a report with plots")
    add_jobs(parser)


def run(args: argparse.Namespace) -> int:
    errors = Console(stderr=True)
    skipped = 0

    def skip(error: TraceError) -> None:
        nonlocal skipped
        skipped += 1
        errors.print(f"skipped: {error}", markup=False, highlight=False, soft_wrap=True)

    cost = load_model(args.model)
    latency = LatencyProfile.read(args.latency) if args.latency else None
    traces = {}
    for spec in args.traces:
        trace = load_trace(
            spec,
            limit=args.limit,
            tokenizer=args.tokenizer,
            on_bad=skip if args.skip_bad else None,
        )
        traces[trace.name] = trace.requests
    share = None if args.two_pools is None else args.two_pools / (1 + args.two_pools)
    concurrency = None if args.speed is not None else args.concurrency or 1
    jobs = [
        Job(
            Setup(
                name,
                policy,
                args.model,
                cost,
                Budget(budget, share, encoding),
                latency,
                concurrency,
            ),
            name,
        )
        for name in traces
        for policy in args.policy or ([] if args.server else ["auto"])
        for encoding in (["exact"] if policy == UNLIMITED else args.encoding)
        # Without a bound one budget is like another.
        for budget in (args.budget[:1] if policy == UNLIMITED else args.budget)
    ]
    for job in jobs:
        check_policy(job.setup.policy, job.setup.budget, together=concurrency != 1)
    runs: list[RunRecord] = []
    requests: list[RequestRecord] = []
    with progress_bar() as progress:
        for run in run_batch(jobs, traces, workers=args.jobs, progress=progress):
            runs.append(run.run)
            requests.extend(run.requests)
        if args.server:
            for name, asked in traces.items():
                run = _serve(name, asked, cost, args, progress)
                runs.append(run.run)
                requests.extend(run.requests)
    console().print(runs_table(runs))
    if skipped:
        errors.print(f"{skipped} broken records were left out")
    if args.json:
        write_records(args.json, runs)
    if args.per_request:
        write_records(args.per_request, requests)
    if args.report:
        args.report.mkdir(parents=True, exist_ok=True)
        write_records(args.report / "runs.jsonl", runs)
        write_records(args.report / "requests.jsonl", requests)
        print(write_report(args.report))
    return 0


def _serve(
    name: str,
    requests: Sequence[TraceRequest],
    cost: ModelCost,
    args: argparse.Namespace,
    progress: Progress,
) -> Run:
    """Send a trace to a server."""
    task = progress.add_task(f"{name}, {args.server}", total=len(requests))
    concurrency = args.concurrency or (4 if args.speed is None else None)
    tokenizer = args.tokenizer
    if tokenizer is not None and tokenizer.is_dir():
        tokenizer /= "tokenizer.json"
    start = perf_counter()
    records = asyncio.run(
        replay(
            args.server,
            requests,
            trace=name,
            concurrency=concurrency,
            speed=args.speed,
            vocabulary=plain_token_ids(tokenizer) if tokenizer else range(args.vocabulary),
            on_record=lambda _: progress.advance(task),
        )
    )
    return Run(run_record(records, seconds=perf_counter() - start, cost=cost), records)


def _policies(text: str) -> list[str]:
    return [_checked_policy(name) for name in text.split(",")]


def _checked_policy(name: str) -> str:
    try:
        check_policy(name, Budget(0))
    except PolicyError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def _encodings(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in ENCODINGS:
            raise argparse.ArgumentTypeError(
                f"no encoding {name!r}; there are {', '.join(ENCODINGS)}"
            )
    return names


def _budgets(text: str) -> list[int]:
    return [byte_size(part) for part in text.split(",")]
