"""The paged store of checkpoints: page lists, encodings, tiers. torch and the kernels, no SGLang.

A *page* in this folder is a store page, never a KV page.

| file            | what it is                                                       |
|-----------------|------------------------------------------------------------------|
| ``arena``       | a buffer of pages and the free runs of it                        |
| ``host_memory`` | host memory of just the size, pinned                             |
| ``order``       | on a GPU: which work on pages waits for which                    |
| ``store``       | checkpoints in pages: stored, loaded, demoted, moved to the host |
| ``sizing``      | how many pages a number of bytes gives, or why they do not do    |
"""

from sglang_marconi.pool.sizing import StoreSize, StoreSizeError, store_size
from sglang_marconi.pool.store import CheckpointStore

__all__ = ["CheckpointStore", "StoreSize", "StoreSizeError", "store_size"]
