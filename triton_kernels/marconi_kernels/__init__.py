"""Checkpoints of recurrent state in pages of device memory, exact or in fewer bytes.

`StateLayout` says what a state is made of and how its encodings lie in pages; `store`, `load`,
`reencode`, `clear` and `copy_pages` move states. On a GPU each of the first four is one launch of
a Triton kernel over all layers and tensors; elsewhere torch does the same.

A *page* in this package is a page of such memory, never one of KV.

`ops/` has these operations, `device/` what their kernels share, `reference/` the same in torch;
`launch.py` says how kernels are launched.
"""

from .encoding import Encoding
from .layout import StateLayout, StatePart
from .ops import clear, copy_pages, load, reencode, store

__all__ = [
    "Encoding",
    "StateLayout",
    "StatePart",
    "clear",
    "copy_pages",
    "load",
    "reencode",
    "store",
]
