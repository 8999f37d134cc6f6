"""Checkpoints of recurrent state in pages of device memory, exact or in fewer bytes.

`StateLayout` says what a state is made of and how its encodings lie in pages; `store`, `load`,
`reencode`, `clear` and `copy_pages` move states. On a GPU each of the first four is one launch of
a Triton kernel over all layers and tensors; elsewhere torch does the same.
"""

from .clear import clear
from .copy_pages import copy_pages
from .layout import Encoding, StateLayout, StatePart
from .load import load
from .reencode import reencode
from .store import store

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
