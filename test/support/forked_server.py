"""Servers that start in seconds, out of a process that has imported SGLang already."""

from __future__ import annotations

from local_server import LocalServer, Process

from support.forked import template

# What most servers of the tests are started with.
MARCONI = (
    *("--radix-cache-backend", "marconi"),
    "--enable-cache-report",
    # Small pools: without limits SGLang takes most of the machine's memory.
    *("--max-total-tokens", "65536", "--max-mamba-cache-size", "192"),
    *("--max-running-requests", "16"),
)


class ForkedServer(LocalServer):
    """A ``LocalServer`` without the imports; on a CPU only, as CUDA does not outlive a fork.

    What tests the start itself, or processes and how they end, wants a real one.
    """

    def _start(self, command: list[str]) -> Process:
        return template().fork(command[1:], self._env, self.log_path, self.log_path)

    def _is_ready(self) -> bool:
        # After a request of its own; asked for its health, SGLang waits a second before it looks.
        return "The server is fired up and ready to roll!" in self.log_path.read_text()
