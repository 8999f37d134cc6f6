"""The paper's policy is tuned by a sidecar; what happens to that, requests do not notice."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import psutil
import pytest
import zmq
from local_server import LocalServer
from support.client import generate
from support.forked_server import ForkedServer
from support.prompts import tokens

pytestmark = pytest.mark.server

CHATS, CLIENTS = 8, 4
# Tells this server's sidecar from those of others on the machine.
MARK = "MARCONI_TEST_LOG"
TUNED = "Tuned on the requests"


@pytest.fixture
def tuned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server of the paper's policy whose pools hold a few conversations."""
    log = tmp_path_factory.mktemp("log") / "tuned.log"
    arguments = (
        *("--radix-cache-backend", "marconi", "--max-running-requests", str(CLIENTS)),
        *("--max-total-tokens", "2048", "--max-mamba-cache-size", "20"),
        *("--radix-eviction-policy-config", '{"policy": "marconi"}'),
    )
    with ForkedServer(model, *arguments, log_path=log, env={MARK: str(log)}) as server:
        yield server


class Load:
    """Conversations that go on for as long as they are asked to, over a few system prompts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seeds = count(1000)

    def run(self, requests: int) -> list[float]:
        """Send so many requests, of which none may fail; seconds that each took."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            return list(clients.map(self._ask, [next(self._seeds) for _ in range(requests)]))

    def _ask(self, seed: int) -> float:
        system = tokens(200, seed=seed % 3)
        chat = tokens(40 * (1 + seed // CHATS % 3), seed=seed % CHATS)
        start = time.monotonic()
        reply = generate(self._url, system + chat + tokens(20, seed=seed), 4)
        assert len(reply.output_ids) == 4
        return time.monotonic() - start


def sidecars(server: LocalServer) -> list[psutil.Process]:
    """The tuning process of a server; those that it forks to replay are its children."""
    found = [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if "sglang_marconi.tuning.sidecar" in (process.info["cmdline"] or [])
        and (process.info["environ"] or {}).get(MARK) == str(server.log_path)
    ]
    pids = {process.pid for process in found}
    return [process for process in found if process.ppid() not in pids]


def is_nicer_than_its_server(sidecar: psutil.Process) -> bool:
    server = sidecar.parent()
    return server is not None and sidecar.nice() > server.nice()


def wait_for(what: Callable[[], bool], seconds: float, load: Load | None = None) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        if load is not None:
            load.run(CLIENTS)
        else:
            time.sleep(0.1)


def times_tuned(server: LocalServer) -> int:
    return server.log_path.read_text().count(TUNED)


def flood(endpoint: str, load: Load, requests: int) -> list[float]:
    """The requests' seconds under garbage from a peer that is none."""
    with (
        zmq.Context() as context,
        context.socket(zmq.DEALER) as socket,
        ThreadPoolExecutor(1) as background,
    ):
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(endpoint)
        running = background.submit(load.run, requests)
        while not running.done():
            # Full queues: the scheduler reads a bounded number now and then.
            with suppress(zmq.Again):
                socket.send(os.urandom(1000), zmq.NOBLOCK)
            time.sleep(0.0005)
        return running.result()


def test_requests_do_not_notice_what_happens_to_the_sidecar(tuned: LocalServer) -> None:
    load = Load(tuned.url)
    wait_for(lambda: times_tuned(tuned) > 0, 240, load)
    [first] = sidecars(tuned)
    calm = statistics.median(load.run(24))

    os.kill(first.pid, signal.SIGKILL)
    killed = statistics.median(load.run(24))
    wait_for(lambda: len(sidecars(tuned)) == 1, 60, load)

    [second] = sidecars(tuned)
    assert second.pid != first.pid
    flooded = statistics.median(flood(second.cmdline()[-1], load, 24))

    os.kill(second.pid, signal.SIGSTOP)
    stopped = statistics.median(load.run(24))
    wait_for(lambda: second not in sidecars(tuned), 120, load)
    wait_for(lambda: len(sidecars(tuned)) == 1, 60, load)

    # It starts from nothing: evictions, then a window, then a result.
    before = times_tuned(tuned)
    wait_for(lambda: times_tuned(tuned) > before, 240, load)
    # More than noise: a machine with other load doubles a median now and then.
    assert max(killed, flooded, stopped) < 3 * calm
    assert "started again" in tuned.log_path.read_text()


def test_a_stopped_sidecar_ends_with_its_server(tuned: LocalServer) -> None:
    # One that has just been started again is tied to its server a moment later; then it is nicer.
    wait_for(lambda: any(map(is_nicer_than_its_server, sidecars(tuned))), 30)
    [sidecar] = sidecars(tuned)
    # Stopped, it can read nothing of its server's end.
    os.kill(sidecar.pid, signal.SIGSTOP)
    os.kill(sidecar.ppid(), signal.SIGKILL)
    wait_for(lambda: not sidecars(tuned), 30)
