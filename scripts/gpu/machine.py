"""What is here: a GPU, SGLang, NVIDIA's sanitizer, and which versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from enum import Enum
from typing import NamedTuple

_LOOK = """
import json, sys, platform
from importlib.metadata import PackageNotFoundError, version
found = {"python": platform.python_version(), "device": "CPU", "cuda": False}
for name in ("torch", "triton", "transformers", "sglang", "sglang-kernel"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
import torch
if torch.cuda.is_available():
    found |= {"cuda": True, "device": torch.cuda.get_device_name(), "toolkit": torch.version.cuda}
print(json.dumps(found))
"""


class Need(Enum):
    """What a step cannot do without; the value says what is missing."""

    CUDA = "there is no GPU"
    SGLANG = "SGLang is not installed; BUNDLE=folder installs it without a network"
    SANITIZER = "there is no compute-sanitizer"


class Machine(NamedTuple):
    """`device` is the GPU's name, or CPU; `versions` are of what is installed, by name."""

    device: str
    cuda: bool
    cores: int
    versions: dict[str, str]
    sanitizer: str | None

    @property
    def slug(self) -> str:
        """The device's name as part of a file's."""
        return re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-")

    def lacks(self, need: Need) -> bool:
        """Whether a step that has this need cannot run here."""
        here = {
            Need.CUDA: self.cuda,
            Need.SGLANG: "sglang" in self.versions,
            Need.SANITIZER: self.sanitizer is not None,
        }
        return not here[need]


def look(environment: dict[str, str]) -> Machine:
    """Ask a Python process of the steps' environment, so that this one need not import torch.

    Raises:
        subprocess.CalledProcessError: torch is missing or does not load.
    """
    answer = subprocess.run(
        [sys.executable, "-c", _LOOK],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(answer.stdout.splitlines()[-1])
    cuda = bool(found.pop("cuda"))
    device = found.pop("device")
    return Machine(device, cuda, os.cpu_count() or 1, found, _sanitizer())


def _sanitizer() -> str | None:
    toolkit = "/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer"
    path = f"{os.environ.get('PATH', '')}:{toolkit}"
    return shutil.which("compute-sanitizer", path=path)
