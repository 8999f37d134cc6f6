"""One real SGLang server per configuration, shared by the tests that ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from local_server import LocalServer
from support.forked_server import MARCONI, ForkedServer
from support.models import build_shallow_model
from support.reference import WITHOUT_CACHE, Reference

# A chunk of 128 tokens makes chunked prefills of ordinary prompts; the defaults
# (`extra_buffer`, overlap scheduling) are what a production server runs with.
CONFIGURATIONS = {
    "no_buffer": (
        *("--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"),
        *("--chunked-prefill-size", "128"),
    ),
    "extra_buffer": (),
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small random-weight NemotronH."""
    return build_shallow_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def reference(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """What the model answers where nothing is reused."""
    log = tmp_path_factory.mktemp("log") / "reference.log"
    with ForkedServer(model, *WITHOUT_CACHE, log_path=log) as server:
        yield Reference(server.url)


@pytest.fixture(scope="session")
def _servers() -> Iterator[tuple[ExitStack, dict[str, LocalServer]]]:
    """Those that run already, by configuration: files that take turns with them start none anew."""
    with ExitStack() as running:
        yield running, {}


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def marconi(
    request: pytest.FixtureRequest,
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    _servers: tuple[ExitStack, dict[str, LocalServer]],
) -> LocalServer:
    """A server with our backend, once under each strategy of SGLang."""
    running, started = _servers
    name: str = request.param
    if name not in started:
        log = tmp_path_factory.mktemp("log") / "server.log"
        arguments = (*MARCONI, *CONFIGURATIONS[name])
        started[name] = running.enter_context(ForkedServer(model, *arguments, log_path=log))
    return started[name]
