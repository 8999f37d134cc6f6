"""A process that has imported SGLang once, out of which servers are forked.

A server imports SGLang in three processes, which is most of what its start takes. Each line of
standard input asks for one: a JSON object with its `arguments`, what to add to its `environment`,
and its `log`; the answer is a line with its process id. Its exit status goes into the file `log`
with the suffix `.status`.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")

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
)

_INTERVAL = 0.1

_logs: dict[int, Path] = {}


def main() -> None:
    """Serves requests until standard input ends."""
    _import_sglang()
    signal.signal(signal.SIGCHLD, _note_ended)
    print("ready", flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        log = Path(request["log"])
        # Not before the log is known can the server's end be noted.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            _serve(request["arguments"], request["environment"], log)
        _logs[pid] = log
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        print(pid, flush=True)


def _import_sglang() -> None:
    """All that a server on a CPU imports sooner or later, and the plugins."""
    from sglang.srt.plugins import load_plugins

    load_plugins()
    for module in _IMPORTED_BY_A_SERVER:
        importlib.import_module(module)
    # No server's collections visit, and so copy, what all of them share.
    gc.freeze()


def _note_ended(_signal: int, _frame: FrameType | None) -> None:
    while _logs:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        _logs.pop(pid).with_suffix(".status").write_text(str(code))


def _serve(arguments: list[str], environment: dict[str, str], log: Path) -> NoReturn:
    """In a forked child: become the server."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.setsid()
        os.environ.update(environment)
        target = os.open(log, os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(target, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _fork_instead_of_spawn()
        _look_more_often()
        from sglang.launch_server import run_server
        from sglang.srt.server_args import prepare_server_args

        run_server(prepare_server_args(arguments))
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


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
