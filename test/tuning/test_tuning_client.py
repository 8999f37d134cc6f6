"""The client and real sidecars: what happens to either must not be felt by the other."""

import logging
import math
import os
import signal
import sys
import time
from array import array
from contextlib import contextmanager

import numpy as np
import pytest
import zmq
from sglang_marconi.simulate.tuner import ALPHAS
from sglang_marconi.tuning import TuningClient
from sglang_marconi.tuning.messages import (
    Alive,
    Setup,
    Tuned,
    encode,
)
from sglang_marconi.tuning.process import LONGEST_WAIT, SILENCE
from support import tuning_workload as workload
from support.patience import PATIENCE, gone, until

_TURNS = [(prompt, array("q", tokens)) for prompt, tokens in workload.documents(240)]


class _Clock:
    """Real time, and leaps."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead


@contextmanager
def _client(clock=time.monotonic, **setup):
    client = TuningClient(workload.setup(**setup), clock=clock)
    try:
        yield client
    finally:
        client.close()


def _ready(client):
    """A sidecar is there and set up."""
    sent = client.counts.sent

    def step():
        client.record(*_TURNS[0])
        client.poll()
        time.sleep(0.01)

    until(lambda: client.counts.sent > sent, step)


def _tune(client):
    """Feed requests until an alpha comes."""
    tuned = client.counts.tuned
    answers = []

    def step():
        for turn in _TURNS:
            client.record(*turn)
            answers.append(client.poll())
            time.sleep(0.002)

    until(lambda: client.counts.tuned > tuned, step)
    return [answer for answer in answers if answer is not None]


def test_a_better_alpha_arrives():
    with _client(alpha=0.0) as client:
        answers = _tune(client)
        assert answers[-1] == client.last_tuned.alpha > 0
        tuned = client.last_tuned
        assert set(tuned.hit_rates) == set(ALPHAS)
        assert tuned.hit_rates[tuned.alpha] == max(tuned.hit_rates.values()) > 0
        assert 0 < tuned.seconds < PATIENCE
        assert client.sidecar_says.garbage == 0
        assert client.poll() is None


def test_a_killed_sidecar_is_restarted_later_each_time_and_tunes_again(caplog):
    clock = _Clock()
    with _client(clock) as client, caplog.at_level(logging.WARNING):
        before = _tune(client)[-1]
        for wait in (1, 2, 4):
            _ready(client)
            os.kill(client.process.pid, signal.SIGKILL)
            until(lambda: client.process.pid is None, client.poll)
            client.record(*_TURNS[0])
            clock.ahead += wait - 0.5
            assert client.poll() is None
            assert client.process.pid is None, "too early"
            clock.ahead += 0.5
            until(lambda: client.process.pid is not None, client.poll)
        warnings = [record.getMessage() for record in caplog.records]
        assert [text[text.index("again") :] for text in warnings] == [
            f"again in {wait} s" for wait in (1, 2, 4)
        ]
        assert client.process.restarts == 3
        _tune(client)
        assert client.last_tuned.alpha >= before, "the new one starts from the alpha in force"


def test_a_restart_after_a_long_life_is_quick(caplog):
    clock = _Clock()
    with _client(clock) as client:
        for _ in range(2):
            _ready(client)
            os.kill(client.process.pid, signal.SIGKILL)
            until(lambda: client.process.pid is None, client.poll)
            clock.ahead += 10
            until(lambda: client.process.pid is not None, client.poll)
        _ready(client)
        clock.ahead += LONGEST_WAIT
        os.kill(client.process.pid, signal.SIGKILL)
        until(lambda: client.process.pid is None, client.poll)
        assert caplog.records[-1].getMessage().endswith("again in 1 s")


def test_a_stopped_sidecar_costs_nothing_and_is_replaced(caplog):
    clock = _Clock()
    with _client(clock) as client:
        _ready(client)
        stopped = client.process.pid
        os.kill(stopped, signal.SIGSTOP)
        dropped = client.counts.dropped
        seconds = []
        for _ in range(2000):
            start = time.perf_counter()
            client.record(*_TURNS[0])
            client.poll()
            seconds.append(time.perf_counter() - start)
        assert client.counts.dropped > dropped, "the queue has an end"
        assert np.median(seconds) < 1e-3
        clock.ahead += SILENCE + 1
        until(lambda: client.process.pid is None, client.poll)
        assert "silent" in caplog.records[-1].getMessage()
        clock.ahead += 2
        until(lambda: client.process.pid not in (None, stopped), client.poll)
        _tune(client)


def test_a_flood_is_cut_short():
    with _client() as client:
        _ready(client)
        tokens = array("q", range(20_000))
        for _ in range(3000):
            client.record(len(tokens), tokens)
        assert client.counts.dropped > 0
        until(lambda: client.sidecar_says.missing > 0, lambda: (_ready(client), client.poll()))
        assert client.sidecar_says.garbage == 0
        assert client.process.restarts == 0


def _intruder(client, identity):
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, identity)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(client.endpoint)
    return socket


_GOOD = encode(Tuned(1.5, 1, {}, 0.1))


def test_nobody_else_is_listened_to():
    with _client(alpha=0.3) as client:
        _ready(client)
        socket = _intruder(client, b"intruder")
        before = client.counts.garbage
        for _ in range(5):
            socket.send(_GOOD)
            socket.send_multipart([b"", _GOOD])
        until(lambda: client.counts.garbage == before + 10, client.poll)
        assert client.counts.tuned == 0
        socket.close()
        _tune(client)


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xff\xfe\x00garbage"],
        [encode(Alive())[:-1]],
        [_GOOD[:-3]],
        [_GOOD, _GOOD],
        [encode(Setup(workload.COST, 1, 1, 0.5))],
        [encode(Tuned(math.nan, 1, {}, 0.1))],
        [encode(Tuned(math.inf, 1, {}, 0.1))],
        [encode(Tuned(-0.1, 1, {}, 0.1))],
        [encode(Tuned(2.1, 1, {}, 0.1))],
    ],
)
def test_nonsense_from_the_sidecar_itself_is_ignored(frames):
    with _client(alpha=0.3) as client:
        _ready(client)
        os.kill(client.process.pid, signal.SIGKILL)
        until(lambda: client.process.pid is None, client.poll)
        # The dead one's name is what the client listens to until the restart, which never comes.
        client.process._restart_at = math.inf
        # Two of one name are not let in: the socket must have seen the first one go.
        time.sleep(0.5)
        socket = _intruder(client, client.process.identity)
        socket.send_multipart(frames)
        until(lambda: client.counts.garbage == 1, lambda: _no_answer(client))
        socket.send(_GOOD)
        answers = []
        until(lambda: 1.5 in answers, lambda: answers.append(client.poll()))
        socket.close()


def _no_answer(client):
    assert client.poll() is None


def test_a_closed_client_does_nothing():
    with _client() as client:
        _ready(client)
        pid = client.process.pid
        client.close()
        assert gone(pid)
        client.record(*_TURNS[0])
        assert client.poll() is None
        client.close()


@pytest.mark.parametrize("tokens", [None, "text", object(), [1, "a"], [2**70], array("q")])
def test_no_error_reaches_the_scheduler(tokens):
    with _client(alpha=0.3) as client:
        _ready(client)
        client.record(3, tokens)
        client.poll()
        client.record(*_TURNS[0])
        assert client.poll() is None


def test_a_sidecar_that_cannot_be_started_is_tried_again(monkeypatch, caplog):
    clock = _Clock()
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with _client(clock) as client:
        assert "could not be started" in caplog.records[-1].getMessage()
        clock.ahead += 1.5
        client.poll()
        assert caplog.records[-1].getMessage().endswith("again in 2 s")
        monkeypatch.undo()
        clock.ahead += 2.5
        _ready(client)
