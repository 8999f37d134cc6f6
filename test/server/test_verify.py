"""``sglang-marconi verify`` on real servers: right ones are exact, planted mistakes are found."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from sglang_marconi.verify.calibration import Calibrated, calibrate
from sglang_marconi.verify.run import examine
from sglang_marconi.verify.server import Server
from sglang_marconi.verify.verdict import Report, Verdict
from sglang_marconi.verify.workloads import WORKLOADS
from support.forked_server import MARCONI, ForkedServer
from support.planted_mistakes import MISTAKES, SpoiltServer

pytestmark = pytest.mark.server

T = TypeVar("T")

# Chunks that ordinary prompts fill, and so few states that some are evicted in time.
_SMALL = (
    *("--chunked-prefill-size", "256"),
    *("--max-mamba-cache-size", "64", "--max-running-requests", "8"),
)
# Where each mistake shows at once.
_SHOWN_BY = dict.fromkeys(MISTAKES, "branching") | dict.fromkeys(
    ["token ahead", "wrong prefix"], "turns"
)


class Spoilt(NamedTuple):
    """A server that answers wrong once ``mistake`` names how; calibrated when it did not."""

    url: str
    mistake: Path
    calibrated: Calibrated


@pytest.fixture(scope="module")
def spoilt(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spoilt]:
    folder = tmp_path_factory.mktemp("planted")
    mistake = folder / "mistake"
    mistake.write_text("")
    log = folder / "server.log"
    with SpoiltServer(model, *MARCONI, *_SMALL, mistake=mistake, log_path=log) as server:

        async def calibrated(asked: Server) -> Calibrated:
            return await calibrate(asked, await asked.ordinary_ids(), 0, _quietly)

        yield Spoilt(server.url, mistake, with_server(server.url, calibrated))


def _quietly(name: str, done: int, total: int | None) -> None:
    pass


def with_server(url: str, ask: Callable[[Server], Awaitable[T]]) -> T:
    async def entered() -> T:
        async with Server(url) as server:
            return await ask(server)

    return asyncio.run(entered())


def command(url: str, *arguments: str) -> tuple[int, Any]:
    """Exit status and decoded output of the command."""
    call = "from sglang_marconi.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", call, "verify", url, "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.stdout, run.stderr
    return run.returncode, json.loads(run.stdout)


def test_our_cache_is_exact(spoilt: Spoilt) -> None:
    spoilt.mistake.write_text("")
    status, found = command(spoilt.url)
    assert (status, found["verdict"]) == (0, "exact"), found
    assert {w["name"]: w["verdict"] for w in found["workloads"]} == {
        workload.name: "exact" for workload in WORKLOADS
    }
    [eviction] = (w for w in found["workloads"] if w["name"] == "eviction")
    assert not eviction["note"].startswith("0 of")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_and_happens_again(spoilt: Spoilt, mistake: str) -> None:
    async def asked(server: Server) -> Report:
        [workload] = (w for w in WORKLOADS if w.name == _SHOWN_BY[mistake])
        return await examine(
            server,
            await server.ordinary_ids(),
            spoilt.calibrated,
            seed=0,
            progress=_quietly,
            workloads=[workload],
        )

    spoilt.mistake.write_text(mistake)
    found = with_server(spoilt.url, asked)
    assert found.verdict is Verdict.DIFFERS, found
    assert found.status == 1
    assert found.reproduction is not None
    assert found.reproduction.confirmed
    # What has no part in it is left out.
    assert len(found.reproduction.steps) <= 4


def test_sglangs_own_cache_is_exact(model: Path, tmp_path: Path) -> None:
    log = tmp_path / "stock.log"
    with ForkedServer(model, *MARCONI[2:], *_SMALL, log_path=log) as server:
        status, found = command(server.url, "--no-flush")
    assert (status, found["verdict"], found["cold"]) == (0, "exact", "salt"), found
    assert found["server"]["backend"] == "SGLang's own"
