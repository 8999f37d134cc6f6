"""What a store of checkpoints calls, an operation a file: kernels on a GPU, torch elsewhere."""

from .clear import clear
from .copy_pages import copy_pages
from .load import load
from .reencode import reencode
from .store import store

__all__ = ["clear", "copy_pages", "load", "reencode", "store"]
