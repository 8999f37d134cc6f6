"""SGLang servers for the steps: what they are started with, with a GPU and without."""

from __future__ import annotations

import os
import urllib.request
from importlib.metadata import requires, version
from pathlib import Path

import torch
from local_server import LocalServer
from packaging.requirements import Requirement

from gpu.findings import step_folder

MARCONI = ("--radix-cache-backend", "marconi")
CUDA = torch.cuda.is_available()

# Backends that need neither FlashInfer nor FlashAttention, and few graphs: each one captured costs
# time at the start. Overlap scheduling and CUDA graphs are on by default.
ON_GPU = (
    *("--attention-backend", "triton"),
    *("--sampling-backend", "pytorch"),
    *("--moe-runner-backend", "triton"),
    "--disable-flashinfer-autotune",
    *("--cuda-graph-max-bs-decode", "16"),
    *("--cuda-graph-bs-prefill", "64", "256", "1024"),
)
_ALWAYS = (
    *("--grammar-backend", "none"),
    *("--max-running-requests", "16"),
    "--enable-cache-report",
    "--sleep-on-idle",
)


# Of the memory that is free when a server starts. Two start at once, and what the other one takes
# meanwhile counts as this one's; how much each takes, its own limits say.
_SHARE = ("--mem-fraction-static", "0.75")


def server(model: Path, *arguments: str, name: str) -> LocalServer:
    """A server with its log in the step's folder."""
    gpu = (*ON_GPU, *_SHARE) if CUDA else ()
    return LocalServer(
        model,
        *_ALWAYS,
        *gpu,
        *arguments,
        log_path=step_folder() / f"{name}.log",
        env=environment(),
        # The step's limit comes first.
        start_timeout=3600.0,
    )


def environment() -> dict[str, str]:
    """Variables of a server beside torch and kernels of other versions than SGLang's own."""
    found = {
        # An older sglang-kernel has every operation that these models call.
        "SGLANG_SKIP_SGL_KERNEL_VERSION_CHECK": "1",
        # Compiling a router for experts takes longer than what it gives here.
        "TORCHDYNAMO_DISABLE": "1",
        # A machine without a network has no other interface that could be looked for.
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
        "NCCL_SOCKET_IFNAME": os.environ.get("NCCL_SOCKET_IFNAME", "lo"),
    }
    if not has_its_own_torch():
        # SGLang's Rust tree is built for its own torch.
        found["SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND"] = "python"
    return found


def has_its_own_torch() -> bool:
    """Whether the installed torch is the one that the installed SGLang asks for."""
    asked = (Requirement(line) for line in requires("sglang") or [])
    pin = next((need for need in asked if need.name == "torch" and need.marker is None), None)
    return pin is None or pin.specifier.contains(version("torch").partition("+")[0])


def flush(url: str) -> None:
    """Empty the server's cache, once it is idle."""
    request = urllib.request.Request(f"{url}/flush_cache?timeout=30", method="POST")
    with urllib.request.urlopen(request, timeout=60):
        pass
