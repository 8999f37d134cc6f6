"""Runs a step within its limit and leaves no process of it behind."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from gpu import findings
from gpu.report import BAD, FAILED, PASSED, SKIPPED, TIMED_OUT, Outcome

TAIL_LINES = 40
_PR_SET_CHILD_SUBREAPER = 36
_LONGEST_REASON, _LONGEST_LINE = 200, 500
_OUTPUT = "output.log"


def adopt_orphans() -> None:
    """Processes whose parent ends become this one's children (Linux), so that they can be found.

    A server is the leader of a session of its own and outlives a step that is killed.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(
    name: str,
    title: str,
    command: Sequence[str],
    *,
    limit: float,
    folder: Path,
    environment: dict[str, str],
) -> Outcome:
    """Run a step's command for at most `limit` seconds, with its output in `folder/output.log`.

    The step and every process that it started are gone when this returns, also when it is
    interrupted.
    """
    # What an earlier run left would pass for this one's.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / _OUTPUT
    started = time.monotonic()
    with _processes_of_its_own(), log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **environment,
                findings.FOLDER: str(folder),
                findings.SECONDS: str(limit),
            },
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
    seconds = time.monotonic() - started
    lines, record = findings.left_in(folder)
    tail = _tail(log)
    last = next((line.strip() for line in reversed(tail) if line.strip()), "")
    if not lines and code == 0 and last:
        lines = [last.strip("= ")]
    status, reason = _judge(code, limit, lines, last)
    return Outcome(
        name, title, status, seconds, reason, lines, record, _tails(folder) if status in BAD else []
    )


def _tails(folder: Path) -> list[str]:
    """Of the step's own output, last, and of each log that it wrote."""
    logs = sorted(folder.glob("*.log"), key=lambda log: log.name == _OUTPUT)
    return [line for log in logs for line in (f"=== {log.name}", *_tail(log))]


def _tail(log: Path) -> list[str]:
    return [line[:_LONGEST_LINE] for line in log.read_text(errors="replace").splitlines()][
        -TAIL_LINES:
    ]


def _judge(code: int | None, limit: float, lines: list[str], last: str) -> tuple[str, str]:
    if code is None:
        return TIMED_OUT, f"stopped at its limit of {limit:.0f} s"
    if code == findings.CANNOT:
        return SKIPPED, lines.pop() if lines else last[:_LONGEST_REASON]
    if code:
        what = f"exit status {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
        return FAILED, f"{what}: {last[:_LONGEST_REASON]}".replace("|", "/")
    return PASSED, ""


@contextmanager
def _processes_of_its_own() -> Iterator[None]:
    """Ends every process that appeared below this one and is still there."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    try:
        yield
    finally:
        deadline = time.monotonic() + 10
        while (left := _below(before)) and time.monotonic() < deadline:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            _reap(left)
            time.sleep(0.05)


def _below(others: set[int]) -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [process for process in found if process.pid not in others]


def _reap(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        # Not all are this process's own children yet.
        with suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
