"""FLOPs as torch counts them: those of matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Callable

# The counter imports this, which writes to the environment: before tests, not in the first one.
import torch._dynamo.aot_compile
from torch.utils.flop_counter import FlopCounterMode


def counted_flops(run: Callable[[], object]) -> int:
    """What ``run`` does."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
