"""Real sidecars: what they are told, and how they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq
from sglang_marconi.tuning.messages import (
    Alive,
    Finished,
    decode_for_scheduler,
    encode,
)
from sglang_marconi.tuning.prefix_hashes import PrefixHasher
from sglang_marconi.tuning.process import SidecarProcess
from support import tuning_workload as workload
from support.patience import PATIENCE, gone, until


class _Scheduler:
    """A socket that a real sidecar connects to, to tell it what one likes."""

    def __init__(self):
        self.endpoint = f"ipc://@test-tuning-{os.getpid()}-{time.monotonic_ns()}"
        self.socket = zmq.Context.instance().socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(self.endpoint)
        self.process = SidecarProcess(self.endpoint, time.monotonic)
        self.alive = None
        self.tuned = None
        until(lambda: self.alive is not None, self.receive)

    def send(self, *frames):
        self.socket.send_multipart([self.process.identity, *frames])

    def receive(self):
        if self.socket.poll(100):
            message = decode_for_scheduler(self.socket.recv_multipart()[1])
            if isinstance(message, Alive):
                self.alive = message
            else:
                self.tuned = message

    def close(self):
        self.process.close()
        self.socket.close()


def test_nonsense_from_the_scheduler_is_dropped_and_counted():
    scheduler = _Scheduler()
    hasher = PrefixHasher()

    def finished(number, prompt, tokens):
        return encode(Finished(number, prompt, len(tokens), hasher.hash(tokens)))

    try:
        turns = workload.documents(240)
        nonsense = [
            finished(1, *turns[0]),  # Before the setup.
            b"",
            b"\x00\xff",
            encode(Alive()),
            encode(workload.setup())[:-2],
        ]
        scheduler.send(*nonsense)
        scheduler.send(encode(workload.setup()))
        good = [finished(number, *turn) for number, turn in enumerate(turns, 11)]
        scheduler.send(*good[:10])
        more = [
            encode(workload.setup()),
            good[3],
            encode(Finished(100, 3, 4, b"too short")),
            encode(Finished(100, 5, 4, bytes(16))),
            encode(Finished(100, 0, 0, b"")),
            os.urandom(1000),
        ]
        scheduler.send(*more)
        scheduler.send(*good[12:])
        until(lambda: scheduler.alive.received == len(good) - 2, scheduler.receive)
        assert scheduler.alive.garbage == len(nonsense) + len(more)
        assert scheduler.alive.missing == 10 + 2
        until(lambda: scheduler.tuned is not None, scheduler.receive)
        assert scheduler.process.check()
    finally:
        scheduler.close()


def _descendants(pid):
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    below = [int(child) for child in children]
    return below + [pid for child in below for pid in _descendants(child)]


def _has_worked(pid):
    """Whether a process has had its first hundredth of a second, in which it is tied to others."""
    try:
        counts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(counts[11]) + int(counts[12]) > 0


_SERVER = """
import sys, time
sys.path[:] = {path!r}
from support import tuning_workload as workload
from sglang_marconi.tuning import TuningClient
client = TuningClient(workload.setup(state_bytes=40 * workload.COST.state_bytes))
print(client.process.pid, flush=True)
turns = workload.one_offs(3000)
while True:
    for turn in turns:
        client.record(*turn)
        client.poll()
        time.sleep(0.001)
"""


def _server_that_tunes():
    """A server, its sidecar, and a leader and a worker of a replay that are past their first steps.

    A replay is short, and comes once as long as the traffic stays the same: where it is missed,
    another server is started.
    """
    for _ in range(6):
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVER.format(path=sys.path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        sidecar = int(server.stdout.readline())
        end = time.monotonic() + PATIENCE / 2
        while time.monotonic() < end:
            workers = set(filter(_has_worked, _descendants(sidecar)))
            if len(workers) >= 2:
                return server, sidecar, workers
        server.kill()
        server.wait()
        server.stdout.close()
    pytest.fail("no replay was seen")


@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_server_leaves_no_process(stopped):
    server, sidecar, workers = _server_that_tunes()
    family = {sidecar, *workers}
    try:
        for pid in family if stopped else ():
            os.kill(pid, signal.SIGSTOP)
        server.kill()
        server.wait()
        until(lambda: all(map(gone, family)))
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
        for pid in family:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_sidecar_ends_with_its_standard_input():
    scheduler = _Scheduler()
    try:
        scheduler.process._process.stdin.close()
        until(lambda: scheduler.process.pid is None, scheduler.process.check)
    finally:
        scheduler.close()
