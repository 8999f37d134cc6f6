"""Step: what SGLang compiles with nvcc when it first calls it, all at once and ahead.

A server would build one after the other, ten seconds each, while it starts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from sglang.kernels.ops.activation.activation import relu2
from sglang.kernels.ops.attention.clamp_position import clamp_position_cuda
from sglang.kernels.ops.attention.rope import apply_rope_inplace
from sglang.kernels.ops.kvcache.kvcache import can_use_store_cache

from gpu.findings import leave

# Bytes of keys that a token has in one layer of each model of `models.py`.
KEY_BYTES = {"Mamba2": 256, "GDN": 1024, "NemotronH 8B": 2048}
_ROTARY = 64


def main() -> None:
    """Exit status 1 if something cannot be built; servers may do without it."""
    device = torch.device("cuda")
    heads = torch.zeros(1, 1, _ROTARY, dtype=torch.bfloat16, device=device)
    angles = torch.zeros(8, _ROTARY, device=device)
    position = torch.zeros(1, dtype=torch.int64, device=device)
    calls: dict[str, Callable[[], object]] = {
        "activation": lambda: relu2(heads[0]),
        "positions": lambda: clamp_position_cuda(position),
        "rotary": lambda: apply_rope_inplace(
            heads.clone(), heads.clone(), angles, position, is_neox=True
        ),
        **{f"keys of {name}": _stores(size) for name, size in KEY_BYTES.items()},
    }
    begun = time.monotonic()
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = {name: pool.submit(call) for name, call in calls.items()}
    failed = {
        name: str(future.exception()) for name, future in futures.items() if future.exception()
    }
    seconds = time.monotonic() - begun
    lines = [f"{len(calls) - len(failed)} of {len(calls)} modules built in {seconds:.0f} s."]
    lines += [f"- {name}: {error.strip().splitlines()[-1]}" for name, error in failed.items()]
    leave(lines, {"seconds": seconds, "failed": failed})
    sys.exit(bool(failed))


def _stores(size: int) -> Callable[[], None]:
    def check() -> None:
        if not can_use_store_cache(size):
            raise RuntimeError("see the log")

    return check


if __name__ == "__main__":
    main()
