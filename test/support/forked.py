"""Python processes that have SGLang's modules already, as if started with ``subprocess``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

_PROCESS = Path(__file__).with_name("template_process.py")


class Forked:
    """A process that is another one's child, which writes its exit status into a file."""

    def __init__(self, pid: int, status: Path) -> None:
        self.pid = pid
        self._status = status

    def poll(self) -> int | None:
        text = self._status.read_text() if self._status.exists() else ""
        return int(text) if text else None

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("forked process", timeout or 0.0)
            time.sleep(0.05)
        return code

    def terminate(self) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


class _Template:
    """The connection to the process that others are forked from; it ends with the last one.

    The workers of a run share it: who comes first starts it, the others wait until it answers.
    """

    def __init__(self) -> None:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
        # In the abstract namespace, where nothing is left behind.
        address = f"\0sglang-marconi tests {run}"
        with suppress(OSError), socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            subprocess.Popen(
                [sys.executable, str(_PROCESS), str(listener.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                pass_fds=[listener.fileno()],
            )
        self._stream = _connected(address).makefile("rw")

    def fork(
        self, arguments: Sequence[str], env: Mapping[str, str], output: Path, errors: Path
    ) -> Forked:
        status = output.with_suffix(".status")
        # Nothing is to be read of a process before it that had the same files.
        status.unlink(missing_ok=True)
        for file in (output, errors):
            file.write_text("")
        request = {
            "arguments": arguments,
            "environment": dict(env),
            "path": sys.path,
            "directory": os.getcwd(),
            "output": str(output),
            "errors": str(errors),
            "status": str(status),
        }
        self._stream.write(json.dumps(request) + "\n")
        self._stream.flush()
        answer = self._stream.readline()
        assert answer, "the template ended"
        return Forked(int(answer), status)


def _connected(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + 10
    while True:
        try:
            connection.connect(address)
        except ConnectionRefusedError:  # Bound, and about to listen.
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return connection


@cache
def template() -> _Template:
    """The one of this process; it answers once it has imported SGLang."""
    return _Template()


def run_python(
    *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 240.0
) -> subprocess.CompletedProcess[str]:
    """Like ``subprocess.run`` of ``python`` with these arguments, its output captured."""
    return run_pythons(arguments, env=env, timeout=timeout)[0]


def run_pythons(
    *commands: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 240.0
) -> list[subprocess.CompletedProcess[str]]:
    """Like ``run_python`` of several at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(number) for number in range(len(commands))]
        running = [
            template().fork(
                arguments,
                os.environ if env is None else env,
                file.with_suffix(".output"),
                file.with_suffix(".errors"),
            )
            for arguments, file in zip(commands, files, strict=True)
        ]
        try:
            codes = [process.wait(timeout) for process in running]
        finally:
            for process in running:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        return [
            subprocess.CompletedProcess(
                arguments,
                code,
                file.with_suffix(".output").read_text(),
                file.with_suffix(".errors").read_text(),
            )
            for arguments, code, file in zip(commands, codes, files, strict=True)
        ]
