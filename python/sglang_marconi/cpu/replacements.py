"""What of SGLang is replaced on a machine without an accelerator, by what, and why.

SGLang function                                     ours, and why
--------------------------------------------------  ----------------------------------------------
kernels.ops.mamba
  .causal_conv1d_triton.causal_conv1d_fn            conv1d.causal_conv1d_fn: a Triton kernel;
                                                    srt's causal_conv1d and mamba call it too
  .causal_conv1d_triton.causal_conv1d_update        conv1d.causal_conv1d_update: likewise
  .triton_ops.ssd_combined.mamba_chunk_scan_combined
                                                    mamba2.mamba_chunk_scan_combined: likewise
  .triton_ops.mamba_ssm.selective_state_update      mamba2.selective_state_update: likewise;
                                                    SGLang's dispatcher stays in charge and takes
                                                    this for its Triton backend
  .mamba_state_scatter_triton.track_mamba_states_*  tracking, same names: likewise
srt.arg_groups.mamba_hook
  ._platform_supports_mamba_cache_extra_buffer      supports_extra_buffer: its list of platforms
                                                    leaves the CPU out, for want of the above
srt.configs.model_config.ModelConfig.__init__       set_conv_dtype, afterwards: convolution states
                                                    are bfloat16 unless SGLANG_MAMBA_CONV_DTYPE
                                                    says otherwise; that loses digits of a float32
                                                    model, and storing tracked ones fails
srt.distributed.device_communicators
  .pynccl_wrapper.find_nccl_library                 find_no_library: torch's CUDA build brings
                                                    NCCL along, which has no device to work on;
                                                    where there is none, SGLang's tensor-parallel
                                                    groups go on over gloo
srt.layers.rotary_embedding.base._is_cpu            True: the flag stands for SGLang's own CPU
                                                    kernels (SGLANG_USE_CPU_ENGINE), but in this
                                                    module all it does is to keep rotary
                                                    embeddings from importing a kernel of vLLM
torch.Tensor.pin_memory                             stay_pageable: it asks for a driver; SGLang
                                                    guards most of its calls, but not that of
                                                    ScheduleBatch.prepare_for_decode

`srt.layers.attention.mamba.mamba` binds its convolutions on CUDA, NPU and XPU only, so the four
names are bound here first, to the functions that it would have bound.
"""

import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sglang_marconi.seams import require_parameters, resolve

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


@dataclass(frozen=True)
class Replacement:
    """One entry of the table.

    Attributes:
        target: dotted path of SGLang's function.
        ours: what is called instead, or afterwards.
        parameters: names of the parameters that SGLang's function must have, in order; where it
            has others, ours may no longer mean the same. None where torch does not tell them.
        after: SGLang's function runs first, then ours with its result.
    """

    target: str
    ours: Callable[..., Any]
    parameters: tuple[str, ...] | None
    after: bool = False


def _same(target: str, ours: Callable[..., Any]) -> Replacement:
    """A replacement whose parameters are SGLang's, name by name."""
    return Replacement(target, ours, tuple(inspect.signature(ours).parameters))


REPLACEMENTS = (
    _same(f"{_CONV}.causal_conv1d_fn", conv1d.causal_conv1d_fn),
    _same(f"{_CONV}.causal_conv1d_update", conv1d.causal_conv1d_update),
    _same(
        f"{_OPS}.triton_ops.ssd_combined.mamba_chunk_scan_combined",
        mamba2.mamba_chunk_scan_combined,
    ),
    _same(f"{_OPS}.triton_ops.mamba_ssm.selective_state_update", mamba2.selective_state_update),
    _same(f"{_SCATTER}.track_mamba_states_if_needed", tracking.track_mamba_states_if_needed),
    _same(f"{_SCATTER}.track_mamba_states_all_layers", tracking.track_mamba_states_all_layers),
    _same(
        "sglang.srt.arg_groups.mamba_hook._platform_supports_mamba_cache_extra_buffer",
        supports_extra_buffer,
    ),
    _same(
        "sglang.srt.distributed.device_communicators.pynccl_wrapper.find_nccl_library",
        find_no_library,
    ),
    Replacement("torch.Tensor.pin_memory", stay_pageable, None),
    Replacement(
        "sglang.srt.configs.model_config.ModelConfig.__init__",
        set_conv_dtype,
        ("self", "model_path"),
        after=True,
    ),
)

# Names of `srt.layers.attention.mamba.mamba` -> the function each is on CUDA.
MIXER_NAMES = {
    "causal_conv1d_fn": f"{_MIXER}.causal_conv1d.causal_conv1d_fn",
    "causal_conv1d_update": f"{_MIXER}.causal_conv1d.causal_conv1d_update",
    "causal_conv1d_fn_triton": f"{_CONV}.causal_conv1d_fn",
    "causal_conv1d_update_triton": f"{_CONV}.causal_conv1d_update",
}

# Module variables -> what they are set to.
FLAGS = {"sglang.srt.layers.rotary_embedding.base._is_cpu": True}

_state = {"installed": False}


def check(replacement: Replacement) -> None:
    """Compare SGLang's function with the one that ``replacement`` was written against.

    Raises:
        IncompatibleSGLang: it does not exist, or its parameters differ. For a function that ours
            only follows, further parameters are allowed.
    """
    if replacement.parameters is None:
        resolve(replacement.target)
    else:
        require_parameters(replacement.target, replacement.parameters, exact=not replacement.after)


def install() -> bool:
    """See :func:`sglang_marconi.cpu.install`."""
    if _state["installed"]:
        return True
    if torch.accelerator.is_available():
        return False
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    for replacement in REPLACEMENTS:
        check(replacement)
    for target in FLAGS:
        resolve(target)
    mixer = importlib.import_module(f"{_MIXER}.mamba")
    bindings = {name: resolve(source) for name, source in MIXER_NAMES.items()}

    for name, function in bindings.items():
        if not hasattr(mixer, name):
            setattr(mixer, name, function)
    for target, value in FLAGS.items():
        module, _, variable = target.rpartition(".")
        setattr(importlib.import_module(module), variable, value)
    for replacement in REPLACEMENTS:
        kind = HookType.AFTER if replacement.after else HookType.REPLACE
        HookRegistry.register(replacement.target, replacement.ours, kind)
    _state["installed"] = True
    return True
