"""What the processes of a server hold that could outlive them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil


class Holdings(NamedTuple):
    """Names of unix sockets (abstract ones begin with @) and paths of shared memory."""

    sockets: frozenset[str]
    shared_memory: frozenset[str]


def family(pid: int) -> list[psutil.Process]:
    """The process and all its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those of them that have not ended; nobody may have waited for one that has."""
    left = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


def holdings(processes: list[psutil.Process]) -> Holdings:
    names = {inode: name for inode, name in _unix_sockets() if name}
    sockets: set[str] = set()
    memory: set[str] = set()
    for process in processes:
        with suppress(OSError):
            for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(OSError):
                    target = os.readlink(descriptor)
                    found = re.fullmatch(r"socket:\[(\d+)\]", target)
                    if found and found[1] in names:
                        sockets.add(names[found[1]])
                    if target.startswith("/dev/shm/"):
                        memory.add(target)
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            memory.update(re.findall(r"/dev/shm/\S+", maps))
    return Holdings(frozenset(sockets), frozenset(memory))


def remaining(held: Holdings) -> Holdings:
    """What of it is still there."""
    bound = {name for _, name in _unix_sockets()}
    files = {name for name in held.sockets if not name.startswith("@") and _is_socket(name)}
    return Holdings(
        frozenset((held.sockets & bound) | files),
        frozenset(path for path in held.shared_memory if os.path.exists(path)),
    )


def _is_socket(path: str) -> bool:
    with suppress(OSError):
        return stat.S_ISSOCK(os.stat(path).st_mode)
    return False


def _unix_sockets() -> Iterator[tuple[str, str]]:
    """Inode and name of each, empty for one without."""
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        fields = line.split(None, 7)
        yield fields[6], fields[7] if len(fields) > 7 else ""
