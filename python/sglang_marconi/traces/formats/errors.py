"""What can be wrong with a trace."""

from pathlib import Path


class TraceError(ValueError):
    """A broken record of a trace.

    `line` counts from 1; it is None in a file that is one JSON array or objects over several
    lines, where `reason` names the item by its index, from 0.
    """

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if line is None else f"{path}:{line}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


class TraceFileError(ValueError):
    """A file that cannot be read as a trace at all; the message names it and says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
