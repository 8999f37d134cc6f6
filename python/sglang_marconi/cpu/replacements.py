"""What of SGLang is replaced on a machine without an accelerator, put in place.

``kernels`` and ``surroundings`` have the two halves of the table. `seams.table` has what is
touched wherever the backend is chosen, in the same form.
"""

import importlib

import torch

from sglang_marconi.seams import Kind, Seam, check_seam, hook, resolve

from .environment import absorb_latent_attention
from .kernels import CONVOLUTION, KERNELS
from .surroundings import SURROUNDINGS

REPLACEMENTS = (*KERNELS, *SURROUNDINGS)

_MIXER = "sglang.srt.layers.attention.mamba"

# `mamba.mamba` binds its convolutions on CUDA, NPU and XPU only, so these names are bound here
# first, to the functions that it would have bound.
MIXER_NAMES = {
    "causal_conv1d_fn": f"{_MIXER}.causal_conv1d.causal_conv1d_fn",
    "causal_conv1d_update": f"{_MIXER}.causal_conv1d.causal_conv1d_update",
    "causal_conv1d_fn_triton": f"{CONVOLUTION}.causal_conv1d_fn",
    "causal_conv1d_update_triton": f"{CONVOLUTION}.causal_conv1d_update",
}

_IS_CPU = Seam(
    "sglang.srt.layers.rotary_embedding.base._is_cpu",
    None,
    Kind.WRITE,
    "the flag stands for SGLang's own CPU kernels (`SGLANG_USE_CPU_ENGINE`), but in this module "
    "all it does is to keep rotary embeddings from importing a kernel of vLLM",
)
_NO_COMPILER = Seam(
    "torch._dynamo.config.disable",
    None,
    Kind.WRITE,
    "a model's first requests would wait for a compiler of C++, in every server anew",
)
_LATENT_ATTENTION = Seam(
    "sglang.srt.models.deepseek_common.attention_backend_handler.AttentionBackendRegistry.register",
    "backend_name, handler_func",
    Kind.REGISTRY,
    "latent attention on `torch_native` in its absorbed form, which torch can do",
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

SEAMS = (
    *(seam for seam, _ in REPLACEMENTS),
    *_MIXED,
    _IS_CPU,
    _NO_COMPILER,
    _LATENT_ATTENTION,
)

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
    for flag in (_IS_CPU, _NO_COMPILER):
        setattr(importlib.import_module(flag.module), flag.name, True)
    resolve(_LATENT_ATTENTION.target)("torch_native", absorb_latent_attention)
    for seam, ours in REPLACEMENTS:
        hook(seam, ours)
    _state["installed"] = True
    return True
