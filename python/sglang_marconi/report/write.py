"""Writes the plots and the report of a folder of records."""

import re
from collections.abc import Iterator, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from sglang_marconi import units
from sglang_marconi.records import RunRecord
from sglang_marconi.report import markup, tables
from sglang_marconi.report.definitions import definitions, not_measured
from sglang_marconi.report.folder import Replay, read_replay
from sglang_marconi.report.groups import by_setting
from sglang_marconi.report.looks import Looks, looks
from sglang_marconi.report.sections import Section, sections
from sglang_marconi.report.template import PAGE

# Of a file name, without its number and ending.
_LONGEST_NAME = 120


def write_report(folder: Path) -> Path:
    """Draws the runs of a folder, as PNG files and as ``report.html``, whose path it returns.

    Reads ``runs.jsonl`` and, if there is one, ``requests.jsonl``; the report needs no other file.
    Raises ``FileNotFoundError`` or ``ValueError`` where there are no runs to draw, and
    ``msgspec.ValidationError`` for a line that is no record.
    """
    replay = read_replay(folder)
    shown = looks(run.policy for run in replay.runs)
    traces = ", ".join(sorted({run.trace for run in replay.runs}))
    body = "\n".join(_body(replay, shown, folder))
    page = folder / "report.html"
    text = PAGE.substitute(title=escape(f"Trace replay: {traces}"), body=body)
    page.write_text(text, encoding="utf-8")
    return page


def _body(replay: Replay, shown: Looks, folder: Path) -> Iterator[str]:
    runs, requests = replay.runs, replay.requests
    yield "<h1>Trace replay</h1>"
    yield markup.paragraph(_summary(runs))
    for note in replay.notes:
        yield markup.paragraph(f"Note: {note}")
    yield markup.heading("Best policy by budget")
    best = tables.best_by_budget(runs, shown)
    if best.groups:
        yield markup.table(best, "Best policy by budget")
    else:
        yield markup.paragraph("Left out: the only runs are bounds on what a policy can do.")
    names: set[str] = set()
    for section in sections(runs, requests, shown):
        yield from _section(section, folder, names)
    yield markup.heading("All runs")
    yield markup.table(tables.all_runs(runs, shown), "All runs")
    if latencies := tables.latencies(runs, shown):
        yield markup.heading("Latencies of all runs")
        yield markup.table(latencies, "Latencies of all runs")
    if absent := not_measured(runs, requests):
        yield markup.heading("Not measured")
        yield markup.bullets(absent)
    yield markup.heading("What the numbers mean")
    yield markup.definitions(definitions(shown))


def _summary(runs: Sequence[RunRecord]) -> str:
    sent = units.count(sum(run.requests for run in runs))
    settings = "; ".join(map(str, by_setting(runs)))
    return f"{settings}. Runs: {len(runs)}, with {sent} requests in all."


def _section(section: Section, folder: Path, names: set[str]) -> Iterator[str]:
    yield markup.heading(section.title)
    if section.plots:
        yield markup.paragraph(section.text)
    for plot in section.plots:
        image = BytesIO()
        plot.draw().savefig(image, format="png")
        path = folder / f"{_file_name(section.name, plot.subject, names)}.png"
        path.write_bytes(image.getvalue())
        alt = f"{', '.join(filter(None, (section.title, plot.subject)))}. {section.text}"
        yield markup.figure(image.getvalue(), alt, plot.caption)
    for reason in section.left_out:
        yield markup.paragraph(f"Left out: {reason}")


def _file_name(kind: str, subject: str, taken: set[str]) -> str:
    """A name that no other plot of the report has, of letters that every file system takes."""
    name = re.sub("[^A-Za-z0-9.]+", "-", f"{kind} {subject}")[:_LONGEST_NAME].strip("-.")
    number = 1
    unique = name
    while unique in taken:
        number += 1
        unique = f"{name}-{number}"
    taken.add(unique)
    return unique
