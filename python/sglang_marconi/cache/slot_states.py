"""What SGLang keeps of a prefix in a slot of a ``MambaPool``: a checkpoint must have all of it.

- The windows of convolutions, of which a model may have several, and recurrent states.
- What a model attaches to the slots (``MambaPool.register_slot_state``). Qwen4-Exp's PLE layers
  have windows of a convolution of their own, and the model its last tokens, by which n-grams are
  looked up.

The rings of ReplaySSM are no part of it: they hold tokens that a recurrent state lags behind, and
one that is kept lags behind none.

Where checkpoints share the slots of running requests, ``MambaPool.copy_from`` and ``clear_slots``
see to all that is attached, whatever it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from marconi_kernels import StateLayout

from sglang_marconi.compatibility import UnsupportedConfiguration

_SHARE_SLOTS = (
    "without checkpoint_memory, encoding and host_memory in --radix-eviction-policy-config, "
    "checkpoints share the slots of running requests"
)


def active_tensors(states: Any) -> list[torch.Tensor]:
    """The tensors of a ``MambaPool``, each ``[layers, slots, ...]``, recurrent states last.

    Raises:
        UnsupportedConfiguration: the model attaches what is not known here.
    """
    cache = states.mamba_cache
    tensors = [*cache.conv, *_attached(states), cache.temporal]
    return [tensor for tensor in tensors if tensor.numel()]


def _attached(states: Any) -> Iterator[torch.Tensor]:
    from sglang.srt.mem_cache.ple_state_pool import NGramPool, ShortConvPool

    for attached in states._slot_siblings:
        match attached:
            case ShortConvPool():
                yield attached.conv_state
            case NGramPool():
                # Of the whole model: as of one layer.
                yield attached.context.unsqueeze(0)
            case _:
                raise UnsupportedConfiguration(
                    "--radix-cache-backend marconi: this model attaches a "
                    f"{type(attached).__name__} to its state slots, which a store of checkpoints "
                    f"does not know and would lose; {_SHARE_SLOTS}."
                )


def state_layout(states: Any, page_bytes: int | None = None) -> StateLayout:
    """The layout of ``active_tensors``; only recurrent states may be rounded.

    Raises:
        UnsupportedConfiguration: the model attaches what is not known here.
    """
    tensors = active_tensors(states)
    lossy = [tensor is states.mamba_cache.temporal for tensor in tensors]
    return StateLayout.of(tensors, lossy, page_bytes)


def slot_bytes(states: Any) -> int:
    """The bytes that a slot must take along to another server, as a ``MambaPool`` says itself."""
    _, _, entries = states.get_contiguous_buf_infos()
    return sum(entries)


def check_layout(layout: StateLayout, states: Any) -> None:
    """Make sure that a store's checkpoints have all that SGLang keeps of a prefix in a slot.

    Raises:
        UnsupportedConfiguration: there is more, or something else.
    """
    kept = slot_bytes(states)
    if layout.state_bytes != kept:
        raise UnsupportedConfiguration(
            f"--radix-cache-backend marconi: of the {kept:,} bytes that SGLang keeps in a state "
            f"slot of this model, a store of checkpoints knows {layout.state_bytes:,}; "
            f"{_SHARE_SLOTS}."
        )
