"""The sidecar's process, started again whenever it ends or falls silent."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

logger = logging.getLogger(__name__)

SILENCE = 30.0
"""Seconds without a word after which a sidecar is killed.

It says something every second, but runs at low priority: longer than a busy machine may make
it wait, starting and catching up with a window included.
"""

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before the first restart and, doubled each time, at most. A sidecar that lived for the
longest wait was sound: after it the first wait counts again."""


class SidecarProcess:
    """At most one sidecar at a time.

    ``identity`` is the present one's name on the socket: random, so that nobody else has it.
    It must be made and checked by the scheduler's main thread: the sidecar ends with the
    thread that started it. Starting takes some milliseconds, everything else microseconds.

    ``clock`` gives seconds.
    """

    def __init__(self, endpoint: str, clock: Callable[[], float]) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._wait = FIRST_WAIT
        self._restart_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self.restarts = 0
        self._start()

    @property
    def pid(self) -> int | None:
        """Of the present sidecar."""
        return self._process.pid if self._process is not None else None

    def heard(self) -> None:
        """The sidecar said something."""
        self._heard_at = self._clock()

    def check(self) -> bool:
        """Kill or start a sidecar where that is due; whether there is one."""
        now = self._clock()
        if self._process is None:
            if now >= self._restart_at:
                self.restarts += 1
                self._start()
        elif (code := self._process.poll()) is not None:
            what = f"was silent for {SILENCE:.0f} s" if self._killed else f"ended with code {code}"
            _hang_up(self._process)
            self._process = None
            self._start_later(what)
        elif now - self._heard_at > SILENCE and not self._killed:
            self._process.kill()
            self._killed = True
        return self._process is not None

    def close(self) -> None:
        """End the sidecar, and wait for it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            _hang_up(self._process)
            self._process = None

    def _start(self) -> None:
        # The first byte of an identity must not be 0, which ZeroMQ keeps for its own.
        self.identity = b"m" + secrets.token_bytes(16)
        self._started_at = self._heard_at = self._clock()
        self._killed = False
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sglang_marconi.tuning.sidecar", self._endpoint],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                # numpy's threads would only wait for each other.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                # Ctrl-C at the terminal is the server's to answer.
                start_new_session=True,
            )
        except OSError as error:
            self._start_later(f"could not be started ({error})")
            return
        assert self._process.stdin is not None
        # Not on the command line, which everybody can read. `check` sees it if it has ended.
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{self.identity.hex()} {os.getpid()}\n".encode())

    def _start_later(self, what: str) -> None:
        now = self._clock()
        if now - self._started_at >= LONGEST_WAIT:
            self._wait = FIRST_WAIT
        logger.warning(
            "The sidecar that tunes alpha %s; it is started again in %.0f s", what, self._wait
        )
        self._restart_at = now + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
