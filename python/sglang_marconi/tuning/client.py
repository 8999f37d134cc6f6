"""The scheduler's side of tuning: records finished requests, hears of a better alpha."""

from __future__ import annotations

import logging
import secrets
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray

from sglang_marconi.tuning.messages import (
    BATCH,
    HIGH_WATER,
    Alive,
    Finished,
    Setup,
    Tuned,
    decode_for_scheduler,
    encode,
)
from sglang_marconi.tuning.prefix_hashes import PrefixHasher
from sglang_marconi.tuning.process import SidecarProcess

logger = logging.getLogger(__name__)

INTERVAL = 0.1
"""Seconds between looks at the socket and the process."""

_LARGEST_ANSWER = 1 << 16


@dataclass
class Counts:
    """What became of requests and messages.

    ``sent`` and ``dropped`` requests: no sidecar was there, or it did not keep up. ``garbage``:
    messages from the sidecar's side that were none of it, or nonsense.
    """

    sent: int = 0
    dropped: int = 0
    garbage: int = 0
    tuned: int = 0


class TuningClient:
    """For the scheduler's main thread. Neither `record` nor `poll` waits or raises.

    While there is no sidecar, nothing but tuning is lost: the alpha stays as it is.

    Args:
        setup: the live cache and its present alpha.
        clock: seconds; for tests.

    Raises `zmq.ZMQError` where there is no socket to be had.
    """

    def __init__(self, setup: Setup, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts = Counts()
        self.sidecar_says = Alive()
        self.last_tuned: Tuned | None = None
        self._setup = setup
        self._clock = clock
        self._hasher = PrefixHasher()
        self._number = 0
        self._batch: list[Finished] = []
        self._is_set_up = False
        self._failed = self._closed = False
        self._next_look = 0.0
        # An abstract name: nothing in the file system, so nothing to leave behind.
        self.endpoint = f"ipc://@sglang-marconi-{secrets.token_hex(8)}"
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        # Without it, what cannot be sent is lost unnoticed.
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _LARGEST_ANSWER)
        self._socket.set_hwm(HIGH_WATER)
        self._socket.bind(self.endpoint)
        self.process = SidecarProcess(self.endpoint, clock)

    def record(
        self, prompt_length: int, tokens: array[int] | NDArray[np.int64] | Sequence[int]
    ) -> None:
        """A request has finished: ``tokens`` are its prompt and all of its reply."""
        self._number += 1
        if not self._is_set_up:
            self.counts.dropped += 1
            return
        try:
            hashes = self._hasher.hash(tokens)
            self._batch.append(Finished(self._number, prompt_length, len(tokens), hashes))
            if len(self._batch) == BATCH:
                self._flush()
        except Exception:
            self._fail()

    def poll(self) -> float | None:
        """The alpha to use from now on, if another one was found since the last call."""
        if self._closed or self._failed or self._clock() < self._next_look:
            return None
        self._next_look = self._clock() + INTERVAL
        before = self._setup.alpha
        try:
            self._flush()
            self._receive()
            if not self.process.check():
                self._is_set_up = False
        except Exception:
            self._fail()
        return self._setup.alpha if self._setup.alpha != before else None

    def close(self) -> None:
        """End the sidecar. Afterwards nothing is recorded or tuned."""
        self._is_set_up = False
        if not self._closed:
            self._closed = True
            self.process.close()
            self._socket.close()

    def _fail(self) -> None:
        """An error nobody foresaw must not end the scheduler; tuning ends."""
        logger.exception("Tuning has failed; alpha stays at %s", self._setup.alpha)
        self._failed = True
        self._is_set_up = False

    def _flush(self) -> None:
        if not self._batch:
            return
        if self._send(self._batch):
            self.counts.sent += len(self._batch)
        else:
            self.counts.dropped += len(self._batch)
        self._batch.clear()

    def _send(self, messages: Sequence[Setup | Finished]) -> bool:
        """False if the sidecar is not there, or its queue is full."""
        try:
            self._socket.send_multipart(
                (self.process.identity, *map(encode, messages)), zmq.NOBLOCK
            )
        except zmq.ZMQError:
            return False
        return True

    def _receive(self) -> None:
        """At most as many messages as can have waited, so that a flood does not hold us up."""
        for _ in range(HIGH_WATER):
            try:
                sender, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if sender == self.process.identity and len(frames) == 1:
                self._take(frames[0])
            else:
                self.counts.garbage += 1

    def _take(self, frame: bytes) -> None:
        try:
            message = decode_for_scheduler(frame)
        except msgspec.DecodeError:
            self.counts.garbage += 1
            return
        self.process.heard()
        if isinstance(message, Alive):
            self._alive(message)
        elif message.alpha in self._setup.candidates:
            self.counts.tuned += 1
            self.last_tuned = message
            logger.info(
                "Tuned on the requests up to number %d in %.1f s: alpha %s is best",
                *(message.number, message.seconds, message.alpha),
            )
            self._setup = msgspec.structs.replace(self._setup, alpha=message.alpha)
        else:
            self.counts.garbage += 1

    def _alive(self, message: Alive) -> None:
        self.sidecar_says = message
        # Where that fails, the next sign of life will do as well.
        if not self._is_set_up and self._send([self._setup]):
            # The new one counts from here.
            self._number = 0
            self._is_set_up = True
