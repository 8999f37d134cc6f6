"""``sglang-marconi explain``."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sglang_marconi import units
from sglang_marconi.cli.arguments import add_latency, byte_size, count, positive, token_count
from sglang_marconi.cli.models import load_model
from sglang_marconi.cli.output import console
from sglang_marconi.cost import UnsupportedModelError, preset_names
from sglang_marconi.cost.latency import LatencyProfile, LatencyProfileError
from sglang_marconi.cost.load import ModelSpecError
from sglang_marconi.cost.sglang_pools import SGLANG_RATIO
from sglang_marconi.explain import Explanation, NothingToCheckpointError, explain

ERRORS = (
    OSError,
    LatencyProfileError,
    ModelSpecError,
    NothingToCheckpointError,
    UnsupportedModelError,
)

_BUDGET = 40_000_000_000
_CONTEXT = 32 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"a config.json, its directory, or one of {', '.join(preset_names())}",
    )
    parser.add_argument(
        "--budget",
        type=byte_size,
        default=_BUDGET,
        help="for states and KV on one GPU, such as 40GB, the default; GB is 10^9 bytes",
    )
    parser.add_argument(
        "--context",
        type=token_count,
        default=_CONTEXT,
        help="length of a prompt, such as 32k, the default; k is 1024 tokens",
    )
    parser.add_argument("--tp", type=count, default=1, metavar="N", help="tensor-parallel ranks")
    parser.add_argument(
        "--two-pools",
        type=positive,
        default=SGLANG_RATIO,
        metavar="RATIO",
        help="SGLang's --mamba-full-memory-ratio: bytes of states for a byte of KV; "
        "default: %(default)s",
    )
    add_latency(parser)
    parser.add_argument("--plot", type=_image, metavar="FILE", help="draw both plots: a .png, .svg")
    parser.add_argument("--json", action="store_true", help="one object with all numbers")


def run(args: argparse.Namespace) -> int:
    cost = load_model(args.model, tp_size=args.tp)
    explanation = explain(
        args.model,
        cost,
        budget_bytes=args.budget,
        context_tokens=args.context,
        ratio=args.two_pools,
        latency=LatencyProfile.read(args.latency) if args.latency else None,
    )
    if args.plot:
        # First: where its package is missing, nothing else is printed.
        from sglang_marconi.explain.plot import write_plot

        write_plot(args.plot, explanation, cost)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(explanation)).decode())
    else:
        console().print(_tables(explanation, args.tp))
    return 0


def _tables(explanation: Explanation, ranks: int) -> Group:
    on_each = f", on each of {ranks} ranks" if ranks > 1 else ""
    return Group(
        Text(f"{explanation.model}{on_each}", style="bold"),
        _sizes(explanation),
        _fit(explanation),
        _hits(explanation),
    )


def _sizes(explanation: Explanation) -> Table:
    table = Table("", title="what it takes", title_justify="left", show_header=False)
    table.add_column(justify="right")
    table.add_row("one checkpoint", units.byte_size(explanation.state_bytes))
    for encoding, size in explanation.encoded_bytes.items():
        if size < explanation.state_bytes:
            table.add_row(f"one checkpoint, demoted to {encoding}", units.byte_size(size))
    table.add_row("KV of a token", units.byte_size(explanation.kv_bytes_per_token))
    table.add_row("a checkpoint in tokens of KV", _number(explanation.tokens_per_state))
    context = units.count(explanation.context_tokens)
    even = explanation.break_even_tokens
    table.add_row(
        "prefix whose KV takes as much as its checkpoint",
        f"beyond {context} tokens" if even is None else f"{units.count(even)} tokens",
    )
    return table


def _fit(explanation: Explanation) -> Table:
    fit = explanation.fit
    budget = units.byte_size(explanation.budget_bytes)
    table = Table(f"what {budget} hold", title_justify="left")
    context = units.count(explanation.context_tokens)
    for heading in ("checkpoints", "tokens of KV", f"contexts of {context}, checkpoint each"):
        table.add_column(heading, justify="right")
    table.add_row("checkpoints alone", units.count(fit.checkpoints), "", "")
    table.add_row("KV alone", "", _number(fit.kv_tokens), "")
    of_contexts = fit.contexts * explanation.context_tokens
    together = of_contexts if fit.kv_tokens is not None else None
    table.add_row(
        "both, sharing",
        *(units.count(fit.contexts), _number(together), units.count(fit.contexts)),
    )
    table.add_row(
        "SGLang's two pools",
        *(units.count(fit.pool_checkpoints), _number(fit.pool_kv_tokens)),
        units.count(fit.pool_contexts),
    )
    return table


def _hits(explanation: Explanation) -> Table:
    context = units.count(explanation.context_tokens)
    table = Table(f"a hit, in a prompt of {context} tokens")
    for heading in ("KV", "KV and checkpoint", "FLOPs saved", "of the prefill"):
        table.add_column(heading, justify="right")
    timed = explanation.hits[0].seconds_saved is not None
    if timed:
        table.add_column("time saved", justify="right")
    for hit in explanation.hits:
        table.add_row(
            units.count(hit.tokens),
            units.byte_size(hit.kv_bytes),
            units.byte_size(hit.kv_bytes + explanation.state_bytes),
            units.flops(hit.flops_saved),
            units.percent(hit.share_saved),
            *([] if hit.seconds_saved is None else [units.duration(hit.seconds_saved)]),
        )
    if not timed:
        table.caption = "the time saved: with --latency"
        table.caption_justify = "left"
    return table


def _number(number: float | None) -> str:
    return units.MISSING if number is None else f"{number:,.0f}"


def _image(text: str) -> Path:
    path = Path(text)
    if path.suffix not in {".png", ".svg", ".pdf"}:
        raise argparse.ArgumentTypeError(f"{text!r} ends neither in .png nor in .svg or .pdf")
    return path
