"""Step: does reuse change answers, of a Mamba2 and of a GDN model, both servers at once?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from local_server import ServerFailedError
from tiny_model import build_tiny_model

from gpu import models, servers
from gpu.findings import leave, step_folder

# Enough for verify's workloads, few enough that what it evicts comes back.
_MEMORY = (*("--max-total-tokens", "65536"), *("--max-mamba-cache-size", "96"))
INCOMPLETE = "parts of its states unwritten"
"""What a server's log says of a pass in which an operation has taken no states."""

_VERDICTS = {0: "reuse changes no answer", 1: "DIFFERS", 2: "could not say"}


class Model(NamedTuple):
    """A family, and what builds its model with a GPU and without."""

    name: str
    build: Callable[[Path], Path]
    build_for_cpu: Callable[[Path], Path] | None


MODELS = (
    Model("Mamba2", models.build_mamba2, build_tiny_model),
    Model("GDN", models.build_gdn, None),
)


class Found(NamedTuple):
    """How `sglang-marconi verify` ended, or why it was not asked: then there is no `status`."""

    status: int | None
    said: str
    report: dict[str, Any]

    @property
    def is_bad(self) -> bool:
        """Whether this is not the answer that it should be."""
        return self.status not in {0, None}


def main() -> None:
    """Exit status 1 unless each model that can run here is exact or within its own noise."""
    folder = step_folder()
    with ThreadPoolExecutor() as pool:
        asked = {model.name: pool.submit(ask, model, folder) for model in MODELS}
        found: dict[str, Found] = {}
        for name, future in asked.items():
            found[name] = future.result()
            lines = [f"- {name}: {one.said}" for name, one in found.items()]
            leave(lines, {name: one._asdict() for name, one in found.items()})
    sys.exit(any(one.is_bad for one in found.values()))


def ask(model: Model, folder: Path) -> Found:
    """Start a server of the model and verify it."""
    build = model.build if servers.CUDA else model.build_for_cpu
    if build is None:
        return Found(None, "skipped, needs a GPU", {})
    name = model.name.lower()
    arguments = (*servers.MARCONI, *_MEMORY)
    try:
        path = build(folder / f"{name}-model")
        with servers.server(path, *arguments, name=name) as server:
            found = verify(server.url, folder / f"{name}-differs.json", folder / f"{name}.err")
            return found if found.is_bad else whole(found, server.log_path)
    except ServerFailedError as error:
        print(error, flush=True)
        return Found(2, f"the server did not start: {_reason(str(error))}", {})


def verify(url: str, reproduction: Path, errors: Path) -> Found:
    """Run the command beside this Python, from the checkout."""
    main_of_command = "from sglang_marconi.cli import main; main()"
    command = [sys.executable, "-c", main_of_command, "verify", url, "--json"]
    with errors.open("w") as standard_error:
        done = subprocess.run(
            [*command, "--reproduction", str(reproduction)],
            stdout=subprocess.PIPE,
            stderr=standard_error,
            text=True,
            check=False,
        )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = {}
    said = _VERDICTS.get(done.returncode, f"exit status {done.returncode}")
    why = report.get("summary") or errors.read_text().strip().splitlines()[-1:]
    return Found(done.returncode, f"{said} ({''.join(why)})", report)


def whole(found: Found, log: Path) -> Found:
    """What was found, unless passes left states incomplete: then nothing was taken inside them."""
    lines = [line for line in log.read_text().splitlines() if INCOMPLETE in line]
    return Found(1, f"states INCOMPLETE: {lines[0]}", found.report) if lines else found


def _reason(text: str) -> str:
    """The last line that names an error."""
    lines = [line.strip() for line in text.splitlines() if "Error" in line]
    return (lines or text.splitlines())[-1][:200]


if __name__ == "__main__":
    main()
