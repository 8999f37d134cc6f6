"""Servers to which applications declare places, and how each answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from support import chat_templates
from support.forked_server import MARCONI, ForkedServer

EXTRA_BUFFER = ("--mamba-radix-cache-strategy", "extra_buffer")
NO_BUFFER = ("--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule")
CHUNKS = ("--chunked-prefill-size", "128")
STORE = ("--radix-eviction-policy-config", '{"checkpoint_memory": 0.5}')
# As of a model whose states cannot be taken inside a pass.
CUT = ("--json-model-override-args", '{"linear_backend": "minimax"}')


class Way(NamedTuple):
    """A way to serve, its KV page, and whether it cuts prefills."""

    arguments: tuple[str, ...]
    page: int = 1
    cuts: bool = False


WAYS = {
    "extra_buffer": Way(EXTRA_BUFFER),
    "no_buffer, chunks": Way((*NO_BUFFER, *CHUNKS)),
    "pages": Way((*EXTRA_BUFFER, *CHUNKS, "--page-size", "64"), 64),
    "store": Way((*CHUNKS, *STORE)),
    "cut": Way((*NO_BUFFER, *CUT), cuts=True),
}


class Declared(NamedTuple):
    """A server, the page of its KV, and whether it cuts prefills."""

    url: str
    page: int
    cuts: bool

    def whole(self, tokens: int) -> int:
        """Whole pages of so many tokens."""
        return tokens // self.page * self.page


def with_template(folder: Path) -> tuple[str, ...]:
    """The options of a server whose template has tools, unless a request brings another one."""
    file = folder / "chatml.jinja"
    file.write_text(chat_templates.CHATML)
    return ("--chat-template", str(file), "--trust-request-chat-template")


@contextmanager
def declaring(model: Path, folder: Path, name: str) -> Iterator[Declared]:
    """A server of ours that serves in one of the ways."""
    way = WAYS[name]
    arguments = (*MARCONI, *with_template(folder), *way.arguments)
    with ForkedServer(model, *arguments, log_path=folder / "declared.log") as running:
        yield Declared(running.url, way.page, way.cuts)
