"""A job's candidates, replayed at the same time in forked processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
from multiprocessing.connection import Connection, wait

from sglang_marconi.simulate.lifeline import die_with_parent
from sglang_marconi.simulate.tuner import Job, Replay

# Forked, as each replay needs a copy of the job's start, and a process is born with one.
_FORK = multiprocessing.get_context("fork")


class ReplayFailed(RuntimeError):
    """A replay raised, or its process was killed; its own output has said more."""


class ParallelReplays:
    """A running job.

    A leader process, forked at once so that the job's start cannot change under it, forks one
    process for each candidate, as many at a time as there are CPUs for this process. All end when
    the process that made this object ends. ``nicer``: how much lower their priority is than its.
    """

    def __init__(self, job: Job, *, nicer: int = 0) -> None:
        self._reader, writer = _FORK.Pipe(duplex=False)
        self._leader = _FORK.Process(target=_lead, args=(job, writer, os.getpid(), nicer))
        self._leader.start()
        writer.close()

    @property
    def fileno(self) -> int:
        """Readable when `collect` does not have to wait."""
        return self._reader.fileno()

    def collect(self) -> dict[float, Replay]:
        """The replays by their alpha; waits for them.

        Raises:
            ReplayFailed: one of them did not come to its end.
        """
        try:
            replays: dict[float, Replay] = self._reader.recv()
        except EOFError:
            raise ReplayFailed("a replay has failed") from None
        finally:
            self.close()
        return replays

    def close(self) -> None:
        """End what runs, and wait for its end."""
        self._reader.close()
        self._leader.kill()
        self._leader.join()


def _lead(job: Job, writer: Connection, parent: int, nicer: int) -> None:
    die_with_parent(parent)
    os.nice(nicer)
    gc.disable()  # A collection would touch, and so copy, all memory that is shared.
    cpus = len(os.sched_getaffinity(0))
    waiting = list(reversed(job.candidates))
    running: dict[Connection, float] = {}
    replays: dict[float, Replay] = {}
    while waiting or running:
        while waiting and len(running) < cpus:
            alpha = waiting.pop()
            running[_start(job, alpha)] = alpha
        for done in wait(running):
            assert isinstance(done, Connection)
            replays[running.pop(done)] = done.recv()
    writer.send(replays)


def _start(job: Job, alpha: float) -> Connection:
    """A process that replays the job; its result, or its end, can be read here."""
    reader, writer = _FORK.Pipe(duplex=False)
    _FORK.Process(target=_replay, args=(job, alpha, writer, os.getpid())).start()
    writer.close()
    return reader


def _replay(job: Job, alpha: float, writer: Connection, parent: int) -> None:
    die_with_parent(parent)
    writer.send(job.replay(alpha))
