"""The process beside a scheduler that tunes its alpha: python -m ...tuning.sidecar ENDPOINT.

The first line of standard input says who it is and who started it; it ends when standard input
does, and when its parent does.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import msgspec
import zmq

from sglang_marconi.simulate.lifeline import die_with_parent
from sglang_marconi.simulate.replays import ParallelReplays, ReplayFailed
from sglang_marconi.simulate.tuner import Job, Tuner
from sglang_marconi.tuning.messages import (
    HEARTBEAT,
    HIGH_WATER,
    Alive,
    Finished,
    Setup,
    Tuned,
    decode_for_sidecar,
    encode,
)
from sglang_marconi.tuning.shadow import recorded, shadow_cache

_NICER, _REPLAYS_NICER = 10, 9
_STDIN = 0


@dataclass
class _Running:
    """A job, and the number of the last request of its window."""

    replays: ParallelReplays
    number: int
    prompt_tokens: int
    started: float


class Sidecar:
    """Receives requests, tunes, and says that it is alive.

    ``identity`` is what the scheduler knows this process by; nobody else can send under it.
    """

    def __init__(self, endpoint: str, identity: bytes) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, identity)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.set_hwm(HIGH_WATER)
        self._socket.connect(endpoint)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(_STDIN, zmq.POLLIN)
        self._tuner: Tuner | None = None
        self._running: _Running | None = None
        self._number = 0
        self._received = self._missing = self._garbage = 0

    def run(self) -> None:
        """Until standard input ends."""
        try:
            self._work()
        finally:
            if self._running is not None:
                self._running.replays.close()

    def _work(self) -> None:
        heartbeat = 0.0
        while True:
            now = time.monotonic()
            if now >= heartbeat:
                self._send(Alive(self._received, self._missing, self._garbage))
                heartbeat = now + HEARTBEAT
            ready = dict(self._poller.poll(ceil(1000 * (heartbeat - now))))
            if _STDIN in ready:
                # Nothing is ever written after the first line: this is its end.
                return
            if self._running is not None and self._running.replays.fileno in ready:
                self._collect(self._running)
            if self._socket in ready:
                for frame in self._socket.recv_multipart():
                    self._take(frame)

    def _send(self, message: Alive | Tuned) -> None:
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            # Nobody reads; who does will hear the next one.
            return

    def _take(self, frame: bytes) -> None:
        try:
            message = decode_for_sidecar(frame)
            if isinstance(message, Setup):
                self._set_up(message)
            else:
                self._finished(message)
        except (msgspec.DecodeError, ValueError):
            self._garbage += 1

    def _set_up(self, setup: Setup) -> None:
        if self._tuner is not None:
            raise ValueError("set up already")
        self._tuner = Tuner(partial(shadow_cache, setup), setup.alpha, setup.candidates)

    def _finished(self, finished: Finished) -> None:
        if self._tuner is None or finished.number <= self._number:
            raise ValueError(f"request {finished.number} after {self._number}")
        request = recorded(finished)
        self._missing += finished.number - self._number - 1
        self._number = finished.number
        self._received += 1
        job = self._tuner.serve(request)
        if job is not None:
            self._start(job)

    def _start(self, job: Job) -> None:
        started = time.monotonic()
        replays = ParallelReplays(job, nicer=_REPLAYS_NICER)
        self._running = _Running(replays, self._number, job.prompt_tokens(), started)
        self._poller.register(replays.fileno, zmq.POLLIN)

    def _collect(self, running: _Running) -> None:
        self._poller.unregister(running.replays.fileno)
        self._running = None
        assert self._tuner is not None
        try:
            results = running.replays.collect()
        except ReplayFailed:
            self._tuner.give_up()
            return
        rates = {
            alpha: replay.hit_tokens / running.prompt_tokens for alpha, replay in results.items()
        }
        alpha = self._tuner.adopt(results)
        self._send(Tuned(alpha, running.number, rates, time.monotonic() - running.started))


def main() -> None:
    """See the module."""
    (endpoint,) = sys.argv[1:]
    identity, parent = sys.stdin.readline().split()
    die_with_parent(int(parent))
    os.nice(_NICER)
    # Of all the server's processes this one is the first to go where memory runs out.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    Sidecar(endpoint, bytes.fromhex(identity)).run()


if __name__ == "__main__":
    main()
