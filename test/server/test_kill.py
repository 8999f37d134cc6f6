"""A server that is killed leaves nothing of ours behind, and another one starts at once."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from local_server import LocalServer
from support.client import generate
from support.forked_server import ForkedServer
from support.prompts import tokens
from support.remains import Holdings, alive, family, holdings, remaining

pytestmark = pytest.mark.server

# With a sidecar, which has a socket and processes of its own.
ARGUMENTS = (
    *("--radix-cache-backend", "marconi", "--max-running-requests", "4"),
    *("--max-total-tokens", "4096", "--max-mamba-cache-size", "20"),
    *("--radix-eviction-policy-config", '{"policy": "marconi"}'),
)
OURS = "sglang-marconi"
SCHEDULER, SIDECAR = "sglang::scheduler", "sglang_marconi.tuning.sidecar"


class Running(NamedTuple):
    """A server's processes, and what they hold."""

    processes: list[psutil.Process]
    held: Holdings

    def named(self, part: str) -> psutil.Process:
        """The process that has this in its command line."""
        [found] = [p for p in self.processes if part in " ".join(p.cmdline())]
        return found

    def left(self, seconds: float) -> Holdings:
        """What remains once all processes have ended, which they must within that time."""
        deadline = time.monotonic() + seconds
        while left := alive(self.processes):
            assert time.monotonic() < deadline, [process.cmdline() for process in left]
            time.sleep(0.1)
        return remaining(self.held)


def in_use(server: LocalServer) -> Running:
    """With a request answered and another one running."""
    assert len(generate(server.url, tokens(200, seed=1), 8).output_ids) == 8

    def ask_at_length() -> None:
        with suppress(OSError):
            generate(server.url, tokens(300, seed=2), 3000)

    threading.Thread(target=ask_at_length, daemon=True).start()
    time.sleep(0.5)
    processes = family(server.pid)
    running = Running(processes, holdings(processes))
    assert running.named(SIDECAR).is_running()
    assert any(OURS in name for name in running.held.sockets)
    return running


def check(left: Holdings) -> None:
    """Two kinds of file of SGLang's stay, with any cache: its processes' sockets, its load."""
    assert [name for name in left.sockets if name.startswith("@") or OURS in name] == []
    assert [path for path in left.shared_memory if "/sglang_loads_" not in path] == []


def test_a_killed_server_leaves_nothing_of_ours_behind(model: Path, tmp_path: Path) -> None:
    with LocalServer(model, *ARGUMENTS, log_path=tmp_path / "first.log") as server:
        running = in_use(server)
        psutil.Process(server.pid).kill()
        check(running.left(10))

    # Forked, it tells as well how its processes end, and whether something stands in its way.
    log = tmp_path / "second.log"
    with ForkedServer(model, *ARGUMENTS, log_path=log, port=server.port) as server:
        running = in_use(server)
        running.named(SCHEDULER).kill()
        # SGLang's main process sees to it, and first waits for some seconds.
        check(running.left(60))

    log = tmp_path / "third.log"
    with ForkedServer(model, *ARGUMENTS, log_path=log, port=server.port) as server:
        in_use(server)
