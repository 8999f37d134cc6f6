"""The steps of `make gpu`, the most important first."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gpu.machine import Machine, Need

ROOT = Path(__file__).parents[2]
# Compiling is what the kernels' tests spend their time on, one process a core.
_MOST_WORKERS = 12
# Triton 3.6's interpreter with NumPy 2.5 cannot loop over rows and columns that fill no tile.
_FEW = "mamba2 or edges or several"


class Step(NamedTuple):
    """One program and its limits in seconds, with a GPU and without."""

    name: str
    title: str
    needs: frozenset[Need]
    limit: int
    limit_without_gpu: int
    command: Callable[[Machine], list[str]]

    def seconds(self, machine: Machine) -> int:
        """Its limit on this machine."""
        return self.limit if machine.cuda else self.limit_without_gpu

    def why_not(self, machine: Machine) -> str | None:
        """What keeps it from running here."""
        missing = [need.value for need in Need if need in self.needs and machine.lacks(need)]
        return missing[0] if missing else None


def _program(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"gpu.{name}", *arguments]


def _tests(*arguments: str) -> list[str]:
    # The project's own options ask for nothing that is not installed; a cache has no use here.
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]


def _kernel_tests(machine: Machine) -> list[str]:
    if not machine.cuda:
        few = ["test/kernels/test_kernels_agree.py", "-k", _FEW]
        return ["env", "TRITON_INTERPRET=1", *_tests(*few)]
    workers = min(machine.cores, _MOST_WORKERS)
    parallel = (
        ["-n", str(workers), "--dist", "worksteal"] if importlib.util.find_spec("xdist") else []
    )
    return _tests(*parallel, "test/kernels")


def _stream_tests(machine: Machine) -> list[str]:
    return _tests("test/pool/test_store_on_gpu.py")


def _pool_speed(machine: Machine) -> list[str]:
    return _program("pool_speed")


def _sanitizer(machine: Machine) -> list[str]:
    return _program("sanitize", machine.sanitizer or "")


def _compile(machine: Machine) -> list[str]:
    return _program("compile_ahead")


def _verify(machine: Machine) -> list[str]:
    return _program("verify_models")


def _latency(machine: Machine) -> list[str]:
    return _program("latency")


_CUDA, _SGLANG = frozenset({Need.CUDA}), frozenset({Need.SGLANG})

# The limits with a GPU add up to eight minutes, with a bundle's installation.
STEPS = (
    Step("kernels", "Kernel tests", frozenset(), 65, 300, _kernel_tests),
    Step("streams", "Order of streams, no waiting", _CUDA, 25, 25, _stream_tests),
    Step("pool", "Speed of the store", frozenset(), 45, 300, _pool_speed),
    Step("sanitizer", "compute-sanitizer", _CUDA | {Need.SANITIZER}, 45, 45, _sanitizer),
    Step("compile", "Compiled ahead", _SGLANG | _CUDA, 35, 35, _compile),
    Step("verify", "verify, Mamba2 and GDN", _SGLANG, 120, 900, _verify),
    Step("latency", "Time to first token", _SGLANG, 120, 900, _latency),
)
INSTALL_SECONDS, INSTALL_SECONDS_WITHOUT_GPU = 25, 300


def command(step: Step, machine: Machine) -> list[str]:
    """What runs the step here, from the project's root."""
    return step.command(machine)
