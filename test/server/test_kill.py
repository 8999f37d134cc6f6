"""A server that is killed leaves nothing of ours behind, and another one starts at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from client import generate
from local_server import LocalServer
from prompts import tokens
from remains import Holdings, holdings, marked, remaining

pytestmark = pytest.mark.server

MARK = "MARCONI_TEST_KILL"
# With a sidecar, which has a socket and processes of its own.
ARGUMENTS = (
    *("--radix-cache-backend", "marconi", "--max-running-requests", "4"),
    *("--max-total-tokens", "4096", "--max-mamba-cache-size", "20"),
    *("--radix-eviction-policy-config", '{"policy": "marconi"}'),
)
OURS = "sglang-marconi"


class Killed:
    """One server of several on the same port; all its processes carry its mark."""

    def __init__(self, model: Path, folder: Path, port: int | None) -> None:
        self.mark = str(folder)
        folder.mkdir()
        environment = {MARK: self.mark, "TMPDIR": str(folder)}
        log = folder / "server.log"
        self.server = LocalServer(model, *ARGUMENTS, log_path=log, port=port, env=environment)

    def processes(self) -> list[psutil.Process]:
        return marked(MARK, self.mark)

    def use(self) -> Holdings:
        """Ask something, leave a request running, and see what the processes hold then."""
        assert len(generate(self.server.url, tokens(200, seed=1), 8).output_ids) == 8
        threading.Thread(target=self._ask_at_length, daemon=True).start()
        time.sleep(0.5)
        held = holdings(self.processes())
        assert any(OURS in name for name in held.sockets)
        return held

    def _ask_at_length(self) -> None:
        with suppress(OSError):
            generate(self.server.url, tokens(300, seed=2), 3000)

    def named(self, part: str) -> psutil.Process:
        """The process whose title or command line has this in it."""
        [found] = [p for p in self.processes() if part in " ".join(p.cmdline())]
        return found

    def wait_for_the_end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < deadline, [process.cmdline() for process in left]
            time.sleep(0.1)


def of_ours(held: Holdings) -> list[str]:
    return [name for name in held.sockets if OURS in name]


def test_a_killed_server_leaves_nothing_of_ours_behind(model: Path, tmp_path: Path) -> None:
    first = Killed(model, tmp_path / "first", None)
    with first.server:
        held = first.use()
        os.kill(first.server.pid, signal.SIGKILL)
        first.wait_for_the_end(10)
        left = remaining(held)
        assert (of_ours(left), left.shared_memory) == ([], frozenset())
        assert_only_files_of_sglang(left)

    second = Killed(model, tmp_path / "second", first.server.port)
    with second.server:
        held = second.use()
        os.kill(second.named("sglang::scheduler").pid, signal.SIGKILL)
        # SGLang sees to it, and waits five seconds first.
        second.wait_for_the_end(60)
        left = remaining(held)
        assert (of_ours(left), left.shared_memory) == ([], frozenset())
        assert_only_files_of_sglang(left)

    third = Killed(model, tmp_path / "third", first.server.port)
    with third.server:
        third.use()


def assert_only_files_of_sglang(left: Holdings) -> None:
    """SGLang's own processes talk over sockets in the file system, whose names stay."""
    assert [name for name in left.sockets if name.startswith("@")] == []
