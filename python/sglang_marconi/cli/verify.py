"""``sglang-marconi verify``."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import msgspec
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sglang_marconi.cli.output import console
from sglang_marconi.verify.comparison import Answer
from sglang_marconi.verify.run import verify
from sglang_marconi.verify.server import Server, VerifyError
from sglang_marconi.verify.verdict import Calibration, Report, Reproduction, Verdict

ERRORS = ()

_LOOKS = {
    Verdict.EXACT: ("exact", "green"),
    Verdict.NOISE: ("within the server's own noise", "green"),
    Verdict.DIFFERS: ("differs", "bold red"),
    Verdict.NOT_REUSED: ("nothing reused", "yellow"),
    Verdict.SKIPPED: ("skipped", "yellow"),
    Verdict.UNSURE: ("nothing could be said", "yellow"),
}
_SHORT = {Verdict.NOISE: "noise"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Exit status: 0 where every answer is that of an empty cache, exactly or within what the "
        "server's cold answers vary by; 1 where one differs; 2 where nothing could be said."
    )
    parser.add_argument("server", type=_url, metavar="URL", help="such as http://127.0.0.1:30000")
    parser.add_argument("--api-key", metavar="KEY", help="the server's API key")
    parser.add_argument(
        "--no-flush",
        action="store_true",
        help="leave the server's cache to others: cold requests get a cache_salt of their own",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the prompts, default: %(default)s")
    parser.add_argument(
        "--reproduction",
        type=Path,
        metavar="FILE",
        default=Path("verify-differs.json"),
        help="where the first wrong answer is written, with what to send for it; "
        "default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="one object with all that was found")


def run(args: argparse.Namespace) -> int:
    errors = Console(stderr=True)
    try:
        report = asyncio.run(_verify(args, errors))
    except VerifyError as error:
        errors.print(f"sglang-marconi: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    if report.reproduction is not None:
        _write(args.reproduction, report.reproduction, errors)
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        console().print(page(report, args.reproduction))
    return report.status


async def _verify(args: argparse.Namespace, errors: Console) -> Report:
    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn())
    async with Server(args.server, args.api_key, may_flush=not args.no_flush) as server:
        with Progress(
            *columns, TimeElapsedColumn(), console=errors, disable=not errors.is_terminal
        ) as bars:
            tasks = {}

            def progress(name: str, done: int, total: int | None) -> None:
                if name not in tasks:
                    tasks[name] = bars.add_task(name, total=None)
                bars.update(tasks[name], completed=done, total=total)

            return await verify(server, args.seed, progress)


def _write(file: Path, reproduction: Reproduction, errors: Console) -> None:
    content = msgspec.json.format(msgspec.json.encode(reproduction))
    try:
        file.write_bytes(content + b"\n")
    except OSError as error:
        # What was found is not lost for that.
        errors.print(
            f"sglang-marconi: {file}: {error}", markup=False, highlight=False, soft_wrap=True
        )


def page(report: Report, reproduction: Path) -> Group:
    """What is printed; ``reproduction`` is the file that has the report's."""
    look, style = _LOOKS[report.verdict]
    parts: list[RenderableType] = [
        Text(_server(report)),
        Text(_calibration(report.calibration)),
        _table(report),
        *(Text(f"{one.name}: {one.note}") for one in report.workloads if one.note),
        Text.assemble((look, style), f": {report.summary}"),
    ]
    if report.reproduction is not None:
        parts.append(Text(_what_to_send(report.reproduction, reproduction)))
    return Group(*parts)


def _server(report: Report) -> str:
    server = report.server
    strategy = f" ({server['strategy']})" if server["strategy"] else ""
    cold = {"flush": "after a flush", "salt": "under a cache_salt of its own"}[report.cold]
    return (
        f"{server['url']}: {server['model']}, SGLang {server['version']}, radix cache: "
        f"{server['backend']}{strategy}. Each answer was compared with the one {cold}."
    )


def _calibration(found: Calibration) -> str:
    return (
        f"Without reuse, log probabilities move by up to {found.again:.1g} when asked again, "
        f"{found.company:.1g} in company, {found.reread:.1g} when a reply is read again; more than "
        f"{found.bound:.1g} is no noise. A state of another prefix would be seen in "
        f"{found.other_prefix.found} of {found.other_prefix.of} answers, one a token ahead in "
        f"{found.token_twice.found} of {found.token_twice.of}."
    )


def _table(report: Report) -> Table:
    table = Table("workload")
    for heading in ("asked", "reused", "tokens", "differ", "shift"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for one in report.workloads:
        look, style = _LOOKS[one.verdict]
        verdict = Text(_SHORT.get(one.verdict, look), style=style)
        if not one.requests:
            table.add_row(one.name, *[""] * 5, verdict)
            continue
        table.add_row(
            one.name,
            f"{one.requests}",
            f"{one.reused}",
            f"{one.cached_tokens / one.prompt_tokens:.0%}",
            f"{one.differ}",
            "no bound" if one.largest_shift is None else f"{one.largest_shift:.1g}",
            verdict,
        )
    return table


def _what_to_send(found: Reproduction, file: Path) -> str:
    again = "it happened again" if found.confirmed else "it did not happen again"
    return (
        f"First wrong answer, in {found.workload}, at token {found.place + 1} of the reply: "
        f"{_token(found.got, found.place)} instead of {_token(found.expected, found.place)}. "
        f"{file} has what to send for it, in {len(found.steps)} steps; sent again, {again}."
    )


def _token(answer: Answer, place: int) -> str:
    if place >= len(answer.tokens):
        return "the end"
    token = answer.tokens[place]
    if not answer.likeliest:
        return f"{token}"
    return f"{token} (log probability {answer.likeliest[place][token]:.4f})"


def _url(text: str) -> str:
    url = text if "://" in text else f"http://{text}"
    return url.rstrip("/").removesuffix("/v1")
