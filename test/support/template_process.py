"""A process that has imported SGLang once, out of which Python processes are forked.

A server imports SGLang in three processes, which is most of what its start takes. Listens on the
socket whose file descriptor is its argument, and ends when its last client does. A line of a
client asks for a process, as a JSON object: its `arguments` (of `python`), its `environment`, its
`path` of imports and its working `directory`, the files for its `output` and its `errors`, and the
one that gets its exit `status`. The answer is a line with its process id.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import selectors
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn

import setproctitle

_IMPORTED_BY_A_SERVER = (
    "sglang.launch_server",
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
    "sglang.srt.models.registry",
    "sglang.srt.layers.attention.linear.kda_backend",
    "sglang.srt.layers.attention.linear.gdn_backend",
    "sglang.srt.layers.attention.linear.lightning_backend",
    "sglang_marconi.cache.radix_cache",
    "sglang_marconi.cache.branch_cut",
    "sglang_marconi.cache.pass_states",
)

_INTERVAL = 0.1

_statuses: dict[int, Path] = {}
"""Where the exit status of each process that runs goes."""


def main() -> None:
    """Serves requests until the last client has gone."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    inherited = set(os.environ)
    # Sent to its clients too, after whose end it has their processes to end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _import_sglang()
    signal.signal(signal.SIGCHLD, _note_ended)
    clients = 0
    with selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is listener:
                    client = listener.accept()[0]
                    ready.register(client, selectors.EVENT_READ, client.makefile("rw"))
                    clients += 1
                elif line := key.data.readline():
                    key.data.write(f"{_fork(json.loads(line), inherited)}\n")
                    key.data.flush()
                else:
                    ready.unregister(key.fileobj)
                    clients -= 1
                    if not clients:
                        _end_all()
                        return


def _import_sglang() -> None:
    """All that a server on a CPU imports sooner or later, and the plugins."""
    from sglang.srt.plugins import load_plugins

    load_plugins()
    for module in _IMPORTED_BY_A_SERVER:
        importlib.import_module(module)
    # Found now: it would not find the title's place once the environment has changed.
    setproctitle.getproctitle()
    # No process's collections visit, and so copy, what all of them share.
    gc.freeze()


def _fork(request: dict[str, Any], inherited: set[str]) -> int:
    # Not before it is known where its status goes can the end be noted.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    pid = os.fork()
    if pid == 0:
        _become(request, inherited)
    _statuses[pid] = Path(request["status"])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    return pid


def _note_ended(_signal: int, _frame: FrameType | None) -> None:
    while _statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _statuses.pop(pid).write_text(str(os.waitstatus_to_exitcode(status)))


def _end_all() -> None:
    """A client that was killed has left its processes running."""
    for group in list(_statuses):
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _become(request: dict[str, Any], inherited: set[str]) -> NoReturn:
    """In a forked child: the process that was asked for."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.setsid()
        # Sockets of the template and its clients must not outlive them here.
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for stream, name in enumerate((os.devnull, request["output"], request["errors"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_APPEND), stream)
        os.chdir(request["directory"])
        # What SGLang's import set stays, as it would set it again.
        for name in inherited - set(request["environment"]):
            del os.environ[name]
        os.environ.update(request["environment"])
        sys.path[:] = request["path"]
        _fork_instead_of_spawn()
        _look_more_often()
        _run(request["arguments"])
        status = 0
    except SystemExit as ended:
        status = _status(ended.code)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _status(code: object) -> int:
    """As Python itself makes of what ``sys.exit`` was given."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def _run(arguments: list[str]) -> None:
    """As ``python`` does: a module, a text or a file, as the main module."""
    how, *rest = arguments
    if how == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv = [how, *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(how).parent))
        runpy.run_path(how, run_name="__main__")


def _fork_instead_of_spawn() -> None:
    """SGLang asks for processes that start anew; these are to have its modules already."""
    multiprocessing.set_start_method("fork", force=True)
    context = multiprocessing.get_context("fork")

    def ignore(*_: Any, **__: Any) -> None:
        """Keep the method chosen above."""

    def forking(*_: Any, **__: Any) -> Any:
        return context

    multiprocessing.set_start_method = ignore  # type: ignore[assignment]
    multiprocessing.get_context = forking  # type: ignore[assignment]


def _look_more_often() -> None:
    """SGLang looks every second whether it has started, every five whether it is to end."""
    from sglang.srt.entrypoints import http_server
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

    def sleep(seconds: float) -> None:
        time.sleep(min(seconds, _INTERVAL))

    ends = TokenizerManager.sigterm_watchdog

    async def watch(self: Any) -> None:
        while not self.gracefully_exit:
            await asyncio.sleep(_INTERVAL)
        await ends(self)

    http_server.time = SimpleNamespace(**{**vars(time), "sleep": sleep})
    TokenizerManager.sigterm_watchdog = watch


if __name__ == "__main__":
    main()
