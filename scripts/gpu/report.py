"""The result of a run, as text and as JSON, complete after each step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu.machine import Machine

PASSED, FAILED, TIMED_OUT, SKIPPED = "passed", "failed", "out of time", "skipped"
BAD = {FAILED, TIMED_OUT}
"""The run as a whole has failed by these."""


@dataclass(frozen=True)
class Outcome:
    """How a step ended: `reason` where it did not pass, `lines` and `record` what it found."""

    name: str
    title: str
    status: str
    seconds: float
    reason: str = ""
    lines: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    tail: list[str] = field(default_factory=list)

    @property
    def is_bad(self) -> bool:
        """Whether the run as a whole has failed by it."""
        return self.status in BAD


class Report:
    """Writes `DATE-DEVICE.md` and `.json` into a folder, anew with each outcome."""

    def __init__(self, folder: Path, date: str, machine: Machine, commit: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.text = folder / f"{date}-{machine.slug}.md"
        self.json = self.text.with_suffix(".json")
        self._date, self._commit = date, commit
        self.machine = machine
        self.outcomes: list[Outcome] = []
        self._write()

    def add(self, outcome: Outcome) -> None:
        """Write the files with this outcome too."""
        self.outcomes.append(outcome)
        self._write()

    def _write(self) -> None:
        machine = self.machine
        _replace(self.text, "\n".join([*self._head(), *self._body()]) + "\n")
        record = {
            "date": self._date,
            "commit": self._commit,
            "machine": machine._asdict(),
            "steps": [asdict(outcome) for outcome in self.outcomes],
        }
        _replace(self.json, json.dumps(record, indent=1) + "\n")

    def _head(self) -> list[str]:
        machine = self.machine
        versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
        table = [
            f"| {outcome.title} | {outcome.status} | {outcome.seconds:.0f} s | {outcome.reason} |"
            for outcome in self.outcomes
        ]
        return [
            f"# `make gpu` on {machine.device}, {self._date}",
            "",
            f"Commit {self._commit}; {machine.cores} cores; {versions}.",
            "",
            "| step | result | took | |",
            "|---|---|--:|---|",
            *table,
        ]

    def _body(self) -> list[str]:
        body = []
        for outcome in self.outcomes:
            if outcome.lines:
                body += ["", f"## {outcome.title}", "", *outcome.lines]
        return body


def _replace(file: Path, text: str) -> None:
    scratch = file.with_suffix(file.suffix + ".new")
    scratch.write_text(text)
    scratch.replace(file)
