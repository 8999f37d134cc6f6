"""A job's candidates, replayed at the same time in forked processes."""

from __future__ import annotations

import gc
import os
import struct
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from sglang_marconi.tuning.drift import Sample
from sglang_marconi.tuning.lifeline import die_with_parent
from sglang_marconi.tuning.tuner import Job, Replay

# Alpha, hit tokens; the fractions' mean, variance and number. Shorter than PIPE_BUF, so that
# many processes can write into one pipe, and 21 of them fit into it unread.
_RECORD = struct.Struct("dqddq")
_NICER = 9


class ParallelReplays:
    """A running job.

    A leader process, forked at once so that the job's start cannot change under it, forks one
    process for each candidate, as many at a time as there are CPUs for this process. All
    write into one pipe, and all end when the process that made this object ends.
    """

    def __init__(self, job: Job) -> None:
        self.candidates = job.candidates
        reader, writer = os.pipe()
        self._leader = _fork(partial(_lead, job, writer), keep=writer)
        os.close(writer)
        self.fileno = reader
        """Readable when `collect` has something to do."""
        self._received = b""

    def collect(self) -> dict[float, Replay] | None:
        """What came, once all has come: to be called when ``fileno`` is readable.

        ``None``: not all yet. Empty: the job failed. ``fileno`` is closed then.
        """
        part = os.read(self.fileno, 1 << 16)
        self._received += part
        if part:
            return None
        os.close(self.fileno)
        os.waitpid(self._leader, 0)
        whole = len(self._received) == _RECORD.size * len(self.candidates)
        return dict(_unpack(self._received)) if whole else {}


def _unpack(received: bytes) -> list[tuple[float, Replay]]:
    return [
        (alpha, Replay(hit_tokens, Sample(mean, variance, requests)))
        for alpha, hit_tokens, mean, variance, requests in _RECORD.iter_unpack(received)
    ]


def _lead(job: Job, writer: int) -> None:
    os.nice(_NICER)
    gc.disable()  # A collection would touch, and so copy, every page that is shared.
    running = 0
    for alpha in job.candidates:
        if running == len(os.sched_getaffinity(0)):
            os.wait()
            running -= 1
        _fork(partial(_replay, job, alpha, writer), keep=writer)
        running += 1
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _replay(job: Job, alpha: float, writer: int) -> None:
    replay = job.replay(alpha)
    os.write(writer, _RECORD.pack(alpha, replay.hit_tokens, *replay.fractions))


def _fork(work: Callable[[], None], *, keep: int) -> int:
    """A process that does ``work`` with no file open but the standard ones and ``keep``."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        die_with_parent(parent)
        os.closerange(0, 1)
        os.closerange(3, keep)
        os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
        work()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)
