"""What each kernel must do, in torch: the tests compare them bit for bit; a CPU runs this."""

from .states import clear_torch, load_torch, reencode_torch, store_torch

__all__ = ["clear_torch", "load_torch", "reencode_torch", "store_torch"]
