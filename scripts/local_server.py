"""Runs a SGLang server on this machine, for the length of a `with` block or as a command.

    python scripts/local_server.py MODEL [SGLANG ARGUMENTS...]

runs it until it is stopped.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import psutil
import torch

_CPU_ARGUMENTS = (
    *("--device", "cpu"),
    *("--attention-backend", "torch_native"),
    *("--sampling-backend", "pytorch"),
    *("--dtype", "float32"),
    # An idle scheduler would keep a core busy, beside the server that is asked.
    "--sleep-on-idle",
)
_HOST = "127.0.0.1"
# Below those that Linux gives to outgoing connections, which would take one before the server
# binds it, and those that SGLang chooses for its processes among.
_PORTS = range(10000, 20000)
_TAIL_LINES = 40


class ServerFailedError(RuntimeError):
    """The server ended, or did not answer in time; the message ends with the tail of its log."""


def launch_command(model: str | Path, *arguments: str) -> list[str]:
    """The command line of a server for `model`; without CUDA it says so to SGLang."""
    machine = () if torch.cuda.is_available() else _CPU_ARGUMENTS
    launch = (sys.executable, "-m", "sglang.launch_server", "--model-path", str(model))
    return [*launch, *machine, *arguments]


def _cpu_environment() -> dict[str, str]:
    """One OpenMP thread without CUDA: a second one waits for the server's other processes."""
    return {} if torch.cuda.is_available() else {"OMP_NUM_THREADS": "1"}


class Process(Protocol):
    """What is used of a ``subprocess.Popen``."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...


class LocalServer:
    """A server of its own process group on a local port, for the length of a `with` block.

    `port`: a free one if `None`. `extra_args` go to SGLang; `env` is added to this process's
    environment. Standard output and error go to `log_path`. Entering waits until the server has
    generated a token, for at most `start_timeout` seconds, and raises `ServerFailedError` if that
    fails. Leaving ends the server and every process it started, by force after `stop_timeout`
    seconds.
    """

    def __init__(
        self,
        model_path: str | Path,
        *extra_args: str,
        log_path: Path,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        start_timeout: float = 300.0,
        stop_timeout: float = 10.0,
    ) -> None:
        self.log_path = log_path
        self._command = launch_command(model_path, *extra_args)
        self._env = {**_cpu_environment(), **os.environ, **(env or {})}
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._port = port
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The server's root, without a trailing slash."""
        return f"http://{_HOST}:{self.port}"

    @property
    def port(self) -> int:
        """The one it listens on."""
        if self._port is None:
            raise RuntimeError("the server was not started")
        return self._port

    @property
    def pid(self) -> int:
        """Of the process that was started; it is also the id of its process group."""
        if self._process is None:
            raise RuntimeError("the server was not started")
        return self._process.pid

    def __enter__(self) -> Self:
        if self._port is None:
            self._port = free_port()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._process = self._start([*self._command, "--host", _HOST, "--port", str(self._port)])
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self._stop(self._process)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._stop(self._process)

    def _start(self, command: list[str]) -> Process:
        """Start the command in a session of its own, its output going to the log."""
        with self.log_path.open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )

    def _is_ready(self) -> bool:
        # Unlike `/health`, it has the model generate a token: the first one is slow.
        return _answers(f"{self.url}/health_generate")

    def _wait_until_ready(self, process: Process) -> None:
        deadline = time.monotonic() + self._start_timeout
        while process.poll() is None and time.monotonic() < deadline:
            if self._is_ready():
                return
            time.sleep(0.2)
        code = process.poll()
        what = (
            f"was not ready after {self._start_timeout:.0f} s"
            if code is None
            else f"ended with exit status {code} before it was ready"
        )
        log = self.log_path.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        raise ServerFailedError(
            "\n".join([f"The server {what}. The end of {self.log_path}:", *log])
        )

    def _stop(self, process: Process) -> None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(self._stop_timeout)
        # The group outlives its leader where the server died and left children behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + self._stop_timeout
        while _any_runs(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)


def _any_runs(group: int) -> bool:
    """Whether a process of the group has not ended; when it is reaped is not ours to say."""
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def free_port() -> int:
    """One of this machine's own address that nothing listens on, for a server to listen on.

    Raises:
        OSError: none was found.
    """
    # Of the system, as tests seed the other one: two processes would choose the same.
    for port in random.SystemRandom().sample(_PORTS, 100):
        with suppress(OSError), socket.socket() as probe:
            probe.bind((_HOST, port))
            return port
    raise OSError("no port is free")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            status: int = response.status
            return status == 200
    except (urllib.error.URLError, OSError):
        return False


def main() -> None:
    """Becomes the server, with the arguments of the command line."""
    if len(sys.argv) < 2:
        sys.exit("usage: local_server.py MODEL [SGLANG ARGUMENTS...]")
    command = launch_command(*sys.argv[1:])
    os.execve(command[0], command, {**_cpu_environment(), **os.environ})


if __name__ == "__main__":
    main()
