"""What a step's program leaves for the report, replaced whenever it knows more."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = "GPU_STEP_FOLDER"
"""The variable that names the folder of a running step."""
SECONDS = "GPU_STEP_SECONDS"
"""The variable that says how long the step may take."""
CANNOT = 77
"""The exit status of a step that found out that it cannot run here; the last finding says why."""
_LINES, _RECORD = "findings.md", "record.json"


def step_folder() -> Path:
    """Where the running step may leave files; the current directory if it runs alone."""
    return Path(os.environ.get(FOLDER, "."))


def leave(lines: Sequence[str], record: Mapping[str, Any]) -> None:
    """Write the lines of the report and the numbers behind them, in place of earlier ones."""
    folder = step_folder()
    _replace(folder / _LINES, "".join(f"{line}\n" for line in lines))
    _replace(folder / _RECORD, json.dumps(record, indent=1) + "\n")


def left_in(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """What the step of that folder has left by now: lines and numbers, empty if nothing."""
    lines, record = folder / _LINES, folder / _RECORD
    return (
        lines.read_text().splitlines() if lines.is_file() else [],
        json.loads(record.read_text()) if record.is_file() else {},
    )


def _replace(file: Path, text: str) -> None:
    # The step may be killed at any time; what is there is always whole.
    scratch = file.with_suffix(".new")
    scratch.write_text(text)
    scratch.replace(file)
