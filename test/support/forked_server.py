"""Servers that start in seconds, out of a process that has imported SGLang already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from local_server import LocalServer, Process

# What most servers of the tests are started with.
MARCONI = (
    *("--radix-cache-backend", "marconi"),
    "--enable-cache-report",
    # Small pools: without limits SGLang takes most of the machine's memory.
    *("--max-total-tokens", "65536", "--max-mamba-cache-size", "192"),
    *("--max-running-requests", "16"),
)

_TEMPLATE = Path(__file__).with_name("server_template.py")


class ForkedServer(LocalServer):
    """A ``LocalServer`` without the imports; on a CPU only, as CUDA does not outlive a fork.

    What tests the start itself, or processes and how they end, wants a real one.
    """

    def _start(self, command: list[str]) -> Process:
        launched = command.index("sglang.launch_server")
        return _template().fork(command[launched + 1 :], self._env, self.log_path)

    def _is_ready(self) -> bool:
        # After a request of its own; asked for its health, SGLang waits a second before it looks.
        return "The server is fired up and ready to roll!" in self.log_path.read_text()


class _Template:
    """The process that servers are forked from; it ends with this one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_TEMPLATE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        while (line := self._answer()) != "ready":
            assert line, "the template ended while it imported SGLang"

    def fork(self, arguments: list[str], environment: dict[str, str], log: Path) -> _Forked:
        """A server with SGLang's ``arguments``."""
        status = log.with_suffix(".status")
        # Nothing is to be read of a server before it that had the same log.
        log.write_text("")
        status.unlink(missing_ok=True)
        request = {"arguments": arguments, "environment": environment, "log": str(log)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return _Forked(int(self._answer()), status)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@cache
def _template() -> _Template:
    return _Template()


class _Forked:
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
                raise subprocess.TimeoutExpired("forked server", timeout or 0.0)
            time.sleep(0.05)
        return code

    def terminate(self) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
