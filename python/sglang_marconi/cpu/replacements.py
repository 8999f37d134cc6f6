"""What of SGLang is replaced on a machine without an accelerator, by what, and why.

| SGLang function                                          | ours                          | why |
|----------------------------------------------------------|-------------------------------|-----|
| `kernels.ops.mamba.causal_conv1d_triton.causal_conv1d_fn`| `conv1d.causal_conv1d_fn`     | a
  Triton kernel; `causal_conv1d` and `mamba` of `srt.layers.attention.mamba` call it too |
| `...causal_conv1d_triton.causal_conv1d_update`           | `conv1d.causal_conv1d_update` | same |
| `kernels.ops.mamba.triton_ops.ssd_combined.mamba_chunk_scan_combined`
                                                           | `mamba2.mamba_chunk_scan_combined`
                                                                                           | same |
| `kernels.ops.mamba.triton_ops.mamba_ssm.selective_state_update`
                                                           | `mamba2.selective_state_update`| same;
  SGLang's dispatcher `ssu_dispatch` stays in charge and takes this as its Triton backend |
| `...mamba_state_scatter_triton.track_mamba_states_if_needed` and `..._all_layers`
                                                           | same names in `tracking`      | same |
| `srt.arg_groups.mamba_hook._platform_supports_mamba_cache_extra_buffer`
                                                           | `supports_extra_buffer`       | the
  list of platforms leaves the CPU out because those functions were missing |
| `torch.Tensor.pin_memory`, called by `ScheduleBatch.prepare_for_decode` and others
                                                           | `stay_pageable`               | pinning
  asks for a driver even where the tensor then stays on the host; SGLang guards most calls, not all |
| `srt.configs.model_config.ModelConfig.__init__` (after)  | `set_conv_dtype`              | the
  convolution states are bfloat16 unless SGLANG_MAMBA_CONV_DTYPE says otherwise, which loses digits
  of a float32 model and makes the assignment of tracked states fail |

`srt.layers.attention.mamba.mamba` binds its convolutions on CUDA, NPU and XPU only, so the four
names are bound here first, to the functions that it would have bound.
"""

import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from . import conv1d, mamba2, tracking

_OPS = "sglang.kernels.ops.mamba"
_CONV = f"{_OPS}.causal_conv1d_triton"
_SCATTER = f"{_OPS}.mamba_state_scatter_triton"
_MIXER = "sglang.srt.layers.attention.mamba"


class IncompatibleSglang(RuntimeError):
    """The installed SGLang is not the one that the replacements were written against."""


def supports_extra_buffer() -> bool:
    """The CPU can keep copies of recurrent states, once their functions are replaced."""
    return True


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

_state = {"installed": False}


def check(replacement: Replacement) -> None:
    """Compare SGLang's function with the one that ``replacement`` was written against.

    Raises:
        IncompatibleSglang: it does not exist, or its parameters differ. For a function that ours
            only follows, further parameters are allowed.
    """
    wanted = replacement.parameters
    try:
        function = pkgutil.resolve_name(replacement.target)
    except (ImportError, AttributeError) as error:
        raise IncompatibleSglang(
            f"sglang-marconi's CPU runtime replaces {replacement.target}, "
            f"which this SGLang does not have: {error}"
        ) from error
    if wanted is None:
        return
    found = tuple(inspect.signature(function).parameters)
    if (found[: len(wanted)] if replacement.after else found) != wanted:
        raise IncompatibleSglang(
            f"sglang-marconi's CPU runtime replaces {replacement.target} with parameters "
            f"({', '.join(wanted)}), but this SGLang's has ({', '.join(found)})"
        )


def install() -> bool:
    """See :func:`sglang_marconi.cpu.install`."""
    if _state["installed"]:
        return True
    if torch.accelerator.is_available():
        return False
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    for replacement in REPLACEMENTS:
        check(replacement)
    mixer = importlib.import_module(f"{_MIXER}.mamba")
    for name, source in MIXER_NAMES.items():
        if not hasattr(mixer, name):
            setattr(mixer, name, pkgutil.resolve_name(source))
    for replacement in REPLACEMENTS:
        kind = HookType.AFTER if replacement.after else HookType.REPLACE
        HookRegistry.register(replacement.target, replacement.ours, kind)
    _state["installed"] = True
    return True
