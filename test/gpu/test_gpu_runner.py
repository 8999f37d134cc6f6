"""Steps end at their limit with all they started, and each result is written as it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from gpu.__main__ import Clock
from gpu.findings import CANNOT
from gpu.machine import Machine, Need
from gpu.report import FAILED, PASSED, SKIPPED, TIMED_OUT, Outcome, Report
from gpu.steps import INSTALL_SECONDS, ROOT, STEPS, Step

# The runner looks for what a step left below its own process, so it gets one of its own.
DRIVER = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
from gpu import runner
runner.adopt_orphans()
folder, code, limit = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
command = [sys.executable, "-c", code]
outcome = runner.run("a", "A", command, limit=limit, folder=folder, environment=dict(os.environ))
print(json.dumps(asdict(outcome)))
"""
GPU = Machine("NVIDIA H100 80GB HBM3", True, 16, {"sglang": "0.5.23"}, "/bin/compute-sanitizer")
BARE = Machine("CPU", False, 2, {}, None)
EIGHT_MINUTES = 480


def run(folder: Path, code: str, limit: float = 60.0) -> Outcome:
    child = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), code, str(limit)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return Outcome(**json.loads(child.stdout))


def test_what_a_step_leaves_is_its_result(tmp_path: Path) -> None:
    outcome = run(tmp_path, "from gpu.findings import leave; leave(['fast'], {'us': 3})")
    assert (outcome.status, outcome.lines, outcome.record) == (PASSED, ["fast"], {"us": 3})
    assert not outcome.tail


def test_the_last_line_is_the_result_of_a_step_that_leaves_none(tmp_path: Path) -> None:
    assert run(tmp_path, "print('== 3 passed ==')").lines == ["3 passed"]


def test_a_failure_says_how(tmp_path: Path) -> None:
    outcome = run(tmp_path, "import sys; print('first'); sys.exit('no | space')")
    assert (outcome.status, outcome.reason) == (FAILED, "exit status 1: no / space")
    assert outcome.tail == ["=== output.log", "first", "no | space"]
    killed = run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert killed.reason.startswith("ended by SIGSEGV")


def test_a_failure_shows_the_logs_that_the_step_wrote(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
Path(os.environ["GPU_STEP_FOLDER"], "server.log").write_text("out of memory\\n")
sys.exit("no server")
"""
    assert run(tmp_path, code).tail == [
        "=== server.log",
        "out of memory",
        "=== output.log",
        "no server",
    ]
    # Nor does a run see what one before it left.
    assert run(tmp_path, "import sys; sys.exit('no')").tail == ["=== output.log", "no"]


def test_a_step_that_cannot_run_is_skipped_with_its_reason(tmp_path: Path) -> None:
    code = f"import sys; from gpu.findings import leave; leave(['why'], {{}}); sys.exit({CANNOT})"
    outcome = run(tmp_path, code)
    assert (outcome.status, outcome.reason, outcome.lines) == (SKIPPED, "why", [])


def test_at_its_limit_a_step_ends_with_every_process_below_it(tmp_path: Path) -> None:
    # As a server does: a leader of a session of its own, whose parent ends before it, and a child
    # of that; the step has left what it knew by then.
    code = """
import os, signal, subprocess, sys, time
from gpu.findings import leave
leave(["half"], {})
nap = "import time; time.sleep(600)"
start = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', {!r}]{})"
server = start.format(nap, "") + ".wait()"
subprocess.run([sys.executable, "-c", start.format(server, ", start_new_session=True")])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""
    started = time.monotonic()
    outcome = run(tmp_path, code, limit=4.0)
    assert (outcome.status, outcome.lines) == (TIMED_OUT, ["half"])
    assert time.monotonic() - started < 30
    naps = [p for p in psutil.process_iter(["cmdline"]) if "time.sleep(600)" in str(p.info)]
    assert not naps


def test_the_report_is_whole_after_every_step(tmp_path: Path) -> None:
    report = Report(tmp_path, "2026-01-02", GPU, "abc")
    assert report.text.name == "2026-01-02-nvidia-h100-80gb-hbm3.md"
    report.add(Outcome("a", "A", PASSED, 1.0, lines=["fast"]))
    assert "| A | passed | 1 s |  |" in report.text.read_text()
    report.add(Outcome("b", "B", SKIPPED, 0.0, "there is no GPU"))
    text = report.text.read_text()
    assert "## A\n\nfast\n" in text
    assert "| B | skipped | 0 s | there is no GPU |" in text
    record = json.loads(report.json.read_text())
    assert [step["status"] for step in record["steps"]] == [PASSED, SKIPPED]
    assert record["machine"]["versions"] == {"sglang": "0.5.23"}
    assert {file.suffix for file in tmp_path.iterdir()} == {".md", ".json"}


def test_the_limits_add_up_to_eight_minutes() -> None:
    assert sum(step.limit for step in STEPS) + INSTALL_SECONDS <= EIGHT_MINUTES


def test_what_a_step_leaves_the_next_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock(minutes=1.0)
    assert clock.allow(30) == 30
    now += 10
    assert clock.allow(30) == 50
    now += 49
    # The whole ends after a minute.
    assert clock.allow(30) == 1


def test_names_are_unique() -> None:
    assert len({step.name for step in STEPS}) == len(STEPS)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_why_a_step_does_not_run(step: Step) -> None:
    assert step.why_not(GPU) is None
    missing = step.why_not(BARE)
    assert missing == (
        next(need.value for need in Need if need in step.needs) if step.needs else None
    )


def test_everything_runs_and_is_written_on_a_machine_without_anything(tmp_path: Path) -> None:
    """The command itself, of the one step that is skipped at once."""
    child = subprocess.run(
        [sys.executable, "-m", "gpu", "--out", str(tmp_path), "--only", "sanitizer"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=300,
    )
    assert child.returncode == 0, child.stdout
    (record,) = [json.loads(file.read_text()) for file in tmp_path.glob("*-cpu.json")]
    assert [(s["status"], s["reason"]) for s in record["steps"]] == [(SKIPPED, Need.CUDA.value)]
