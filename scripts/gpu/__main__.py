"""Runs the steps and writes what they found: `python -m gpu`, which `make gpu` calls."""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from gpu import runner
from gpu.machine import Machine, Need, look
from gpu.report import SKIPPED, Outcome, Report
from gpu.steps import INSTALL_SECONDS, INSTALL_SECONDS_WITHOUT_GPU, ROOT, STEPS, Step, command

# Less than this is not worth a start.
_LEAST_SECONDS = 10


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__)
    parser.add_argument(
        "--bundle",
        type=Path,
        help="folder of wheels from scripts/offline_bundle.py, or of its parts",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "docs" / "results",
        help="folder for the report, DATE-DEVICE.md and .json (default: docs/results)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[step.name for step in STEPS],
        metavar="STEP",
        help=f"run these steps alone: {', '.join(step.name for step in STEPS)}",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="end within this time, whatever the steps' own limits are",
    )
    return parser.parse_args()


def main() -> None:
    """Exit status 1 if a step failed or ran out of time."""
    arguments = parse()
    signal.signal(signal.SIGTERM, _interrupt)
    runner.adopt_orphans()
    os.chdir(ROOT)
    folder = ROOT / "build" / "gpu"
    if arguments.bundle:
        # What an earlier bundle left would pass for an installation.
        shutil.rmtree(folder / "site", ignore_errors=True)
    environment = _environment(folder)
    machine = look(environment)
    report = Report(arguments.out, str(datetime.date.today()), machine, _commit())
    _say(f"{machine.device}, {machine.cores} cores; results go to {report.text}")
    clock = Clock(arguments.minutes)
    bundle = arguments.bundle
    for step in STEPS:
        if arguments.only and step.name not in arguments.only:
            continue
        if bundle and Need.SGLANG in step.needs and machine.lacks(Need.SGLANG):
            seconds = INSTALL_SECONDS if machine.cuda else INSTALL_SECONDS_WITHOUT_GPU
            _tell(_install(bundle, folder, environment, clock.allow(seconds)), report)
            # Once: what could not be installed is not tried again.
            bundle = None
            report.machine = machine = look(environment)
        _tell(_run(step, machine, environment, folder, clock), report)
    sys.exit(any(outcome.is_bad for outcome in report.outcomes))


class Clock:
    """How long a step may take: its own limit, and what those before it left of theirs."""

    def __init__(self, minutes: float | None) -> None:
        self._end = time.monotonic() + 60 * minutes if minutes else float("inf")
        self._due = time.monotonic()

    def allow(self, seconds: float) -> float:
        """From now, for a step with a limit of `seconds`."""
        self._due += seconds
        return min(self._due, self._end) - time.monotonic()


def _run(
    step: Step, machine: Machine, environment: dict[str, str], folder: Path, clock: Clock
) -> Outcome:
    left = clock.allow(step.seconds(machine))
    why_not = step.why_not(machine)
    if why_not is None and left < _LEAST_SECONDS:
        why_not = "no time was left"
    if why_not is not None:
        return Outcome(step.name, step.title, SKIPPED, 0.0, why_not)
    _say(f"{step.title} (at most {left:.0f} s) ...")
    return runner.run(
        step.name,
        step.title,
        command(step, machine),
        limit=left,
        folder=folder / step.name,
        environment=environment,
    )


def _install(wheels: Path, folder: Path, environment: dict[str, str], limit: float) -> Outcome:
    return runner.run(
        "install",
        "Installed from the bundle",
        [sys.executable, "-m", "gpu.install", str(wheels.resolve()), str(folder / "site")],
        limit=limit,
        folder=folder / "install",
        environment=environment,
    )


def _environment(folder: Path) -> dict[str, str]:
    """This process's, with the checkout's code before an installed one, and no network."""
    ours = [str(ROOT / name) for name in ("python", "triton_kernels", "scripts")]
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    path = os.pathsep.join([*ours, str(folder / "site"), *given])
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return {**os.environ, **offline, "PYTHONPATH": path, "PATH": programs, "PYTHONUNBUFFERED": "1"}


def _tell(outcome: Outcome, report: Report) -> None:
    report.add(outcome)
    _say(f"{outcome.title}: {outcome.status} ({outcome.seconds:.0f} s) {outcome.reason}")
    for line in outcome.lines:
        _say(f"  {line}")
    if outcome.is_bad:
        for line in outcome.tail:
            _say(f"  | {line}")


def _say(line: str) -> None:
    print(line, flush=True)


def _commit() -> str:
    try:
        command_line = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(
            command_line, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit("interrupted")


if __name__ == "__main__":
    main()
