"""What it takes for SGLang's kernels to run under Triton's interpreter."""

import contextlib

import triton
import triton.language as tl
from triton import Config
from triton.runtime.autotuner import Autotuner


@triton.jit
def _exp(x):  # type: ignore[no-untyped-def]
    return tl.exp(x)


@triton.jit
def _exp2(x):  # type: ignore[no-untyped-def]
    return tl.exp2(x)


@triton.jit
def _log(x):  # type: ignore[no-untyped-def]
    return tl.log(x)


@triton.jit
def _log2(x):  # type: ignore[no-untyped-def]
    return tl.log2(x)


def _first(tuner: Autotuner, _arguments: dict[str, object]) -> list[Config]:
    return [tuner.configs[0]]


def make_interpretable() -> None:
    """Before any of the kernels of `fla` is imported, in a process of the interpreter's own.

    They enter a CUDA device, time the candidates of their launch options, and have bound Triton's
    functions, which the interpreter replaces where they are looked up.
    """
    from sglang.kernels.ops.attention.fla import op, utils

    utils.custom_device_ctx = lambda _index: contextlib.nullcontext()
    Autotuner.prune_configs = _first
    op.exp, op.exp2, op.log, op.log2 = _exp, _exp2, _log, _log2
