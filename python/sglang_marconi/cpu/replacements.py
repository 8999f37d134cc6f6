"""What of SGLang is replaced on a machine without an accelerator, by what, and why.

`srt.layers.attention.mamba.mamba` binds its convolutions on CUDA, NPU and XPU only, so the four
names are bound here first, to the functions that it would have bound.

`seams.table` has what is touched wherever the backend is chosen, in the same form.
"""

import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from sglang_marconi.seams import Kind, Seam, check_seam, hook, resolve

from . import conv1d, mamba2, tracking

_OPS = "sglang.kernels.ops.mamba"
_CONV = f"{_OPS}.causal_conv1d_triton"
_SCATTER = f"{_OPS}.mamba_state_scatter_triton"
_MIXER = "sglang.srt.layers.attention.mamba"


def supports_extra_buffer() -> bool:
    """The CPU can keep copies of recurrent states, once their functions are replaced."""
    return True


def find_no_library() -> str:
    """Tell the communicator, which asks for NCCL and can do without, that there is none."""
    raise OSError("NCCL needs an accelerator")


def stay_pageable(tensor: torch.Tensor, _device: object = None) -> torch.Tensor:
    """The tensor itself: without a device to copy to there is nothing to pin memory for."""
    return tensor


def set_conv_dtype(_result: None, config: Any, *_args: object, **_kwargs: object) -> None:
    """Keep convolution states in the model's own dtype unless the environment asks for another.

    Runs after a model's configuration is read, which is before any state is allocated and, in the
    launching process, before the other processes are started.
    """
    name = str(config.dtype).removeprefix("torch.")
    if name in ("float32", "float16", "bfloat16"):
        os.environ.setdefault("SGLANG_MAMBA_CONV_DTYPE", name)


class Replacement(NamedTuple):
    """What of SGLang makes way, and what is called instead, or afterwards."""

    seam: Seam
    ours: Callable[..., Any]


def _same(target: str, ours: Callable[..., Any], purpose: str) -> Replacement:
    """A replacement whose parameters are SGLang's, name by name."""
    parameters = ", ".join(inspect.signature(ours).parameters)
    return Replacement(Seam(target, parameters, Kind.REPLACE, purpose), ours)


_TRITON = "a Triton kernel"

REPLACEMENTS = (
    _same(
        f"{_CONV}.causal_conv1d_fn",
        conv1d.causal_conv1d_fn,
        f"{_TRITON}; SGLang's `causal_conv1d` and `mamba` call it, too",
    ),
    _same(f"{_CONV}.causal_conv1d_update", conv1d.causal_conv1d_update, _TRITON),
    _same(
        f"{_OPS}.triton_ops.ssd_combined.mamba_chunk_scan_combined",
        mamba2.mamba_chunk_scan_combined,
        _TRITON,
    ),
    _same(
        f"{_OPS}.triton_ops.mamba_ssm.selective_state_update",
        mamba2.selective_state_update,
        f"{_TRITON}; SGLang's dispatcher stays in charge and takes ours for its Triton backend",
    ),
    _same(
        f"{_SCATTER}.track_mamba_states_if_needed", tracking.track_mamba_states_if_needed, _TRITON
    ),
    _same(
        f"{_SCATTER}.track_mamba_states_all_layers",
        tracking.track_mamba_states_all_layers,
        _TRITON,
    ),
    _same(
        "sglang.srt.arg_groups.mamba_hook._platform_supports_mamba_cache_extra_buffer",
        supports_extra_buffer,
        "its list of platforms leaves the CPU out, for want of the above",
    ),
    _same(
        "sglang.srt.distributed.device_communicators.pynccl_wrapper.find_nccl_library",
        find_no_library,
        "torch's CUDA build brings NCCL along, which has no device to work on; where there is "
        "none, SGLang's tensor-parallel groups go on over gloo",
    ),
    Replacement(
        Seam(
            "torch.Tensor.pin_memory",
            None,  # torch does not tell.
            Kind.REPLACE,
            "it asks for a driver; SGLang guards most of its calls, but not that of "
            "`ScheduleBatch.prepare_for_decode`",
        ),
        stay_pageable,
    ),
    Replacement(
        Seam(
            "sglang.srt.configs.model_config.ModelConfig.__init__",
            "self, model_path, ...",
            Kind.AFTER,
            "convolution states are bfloat16 unless `SGLANG_MAMBA_CONV_DTYPE` says otherwise; "
            "that loses digits of a float32 model, and storing tracked ones fails",
        ),
        set_conv_dtype,
    ),
)

# Names of `srt.layers.attention.mamba.mamba` -> the function each is on CUDA.
MIXER_NAMES = {
    "causal_conv1d_fn": f"{_MIXER}.causal_conv1d.causal_conv1d_fn",
    "causal_conv1d_update": f"{_MIXER}.causal_conv1d.causal_conv1d_update",
    "causal_conv1d_fn_triton": f"{_CONV}.causal_conv1d_fn",
    "causal_conv1d_update_triton": f"{_CONV}.causal_conv1d_update",
}

_IS_CPU = Seam(
    "sglang.srt.layers.rotary_embedding.base._is_cpu",
    None,
    Kind.WRITE,
    "the flag stands for SGLang's own CPU kernels (`SGLANG_USE_CPU_ENGINE`), but in this module "
    "all it does is to keep rotary embeddings from importing a kernel of vLLM",
)

_MIXED = tuple(
    Seam(
        f"{_MIXER}.causal_conv1d.{name}",
        None,
        Kind.READ,
        "bound in `mamba.mamba` beside it, which on a CPU does not bind it",
    )
    for name in ("causal_conv1d_fn", "causal_conv1d_update")
)

SEAMS = (*(seam for seam, _ in REPLACEMENTS), *_MIXED, _IS_CPU)

_state = {"installed": False}


def install() -> bool:
    """See :func:`sglang_marconi.cpu.install`."""
    if _state["installed"]:
        return True
    if torch.accelerator.is_available():
        return False
    for seam in SEAMS:
        check_seam(seam)
    mixer = importlib.import_module(f"{_MIXER}.mamba")
    bindings = {name: resolve(source) for name, source in MIXER_NAMES.items()}

    for name, function in bindings.items():
        if not hasattr(mixer, name):
            setattr(mixer, name, function)
    setattr(importlib.import_module(_IS_CPU.module), _IS_CPU.name, True)
    for seam, ours in REPLACEMENTS:
        hook(seam, ours)
    _state["installed"] = True
    return True
