"""Checkpoints in SGLang's stream of KV events, for cache-aware routers.

SGLang publishes each KV page as a block: ``BlockStored`` and ``BlockRemoved``, named by a
hash of the whole prefix. A hybrid model resumes only where a checkpoint stands, which these do
not say. A checkpoint is published in the same stream as a block of its own without tokens: a child
of the block that its prefix ends with, on a medium of its own. Subscribers that do not know the
medium take it for a KV block that nothing matches; were it named by its prefix's hash, its end
would make them forget KV that is still there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sglang.srt.disaggregation.kv_events import BlockRemoved, BlockStored, namespaced_block_hash
from sglang.srt.mem_cache.utils import hash_str_to_int64

from sglang_marconi.events import Dropped, Observer, Reformed, Stored

if TYPE_CHECKING:
    from sglang_marconi.cache.tree_core import MarconiTreeCore
    from sglang_marconi.policy.forms import Form
    from sglang_marconi.policy.ledger import PrefixNode

ON_DEVICE = "MAMBA"
"""The medium of a checkpoint on the device, exact or in a lossy encoding."""
ON_HOST = "MAMBA_CPU_PINNED"
"""The medium of one in host memory."""

_TAG = b"sglang-marconi-checkpoint-v1"


def checkpoint_hash(block_hash: int) -> int:
    """The name of the checkpoint at the end of the KV block of that name.

    The first 8 bytes of SHA-256 of a tag and the block's hash as 8 big-endian bytes, as int64.
    """
    digest = hashlib.sha256(_TAG + block_hash.to_bytes(8, "big", signed=True)).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class CheckpointEvents:
    """Adds events of checkpoints to those that ``tree`` records for SGLang to publish."""

    def __init__(self, observer: Observer, tree: MarconiTreeCore, forms: Sequence[Form]) -> None:
        self._tree = tree
        self._mediums = [ON_HOST if form.host_bytes else ON_DEVICE for form in forms]
        observer.on(Stored, self._stored)
        observer.on(Dropped, self._dropped)
        observer.on(Reformed, self._reformed)

    def _stored(self, event: Stored) -> None:
        self._publish_stored(event.node)

    def _dropped(self, event: Dropped) -> None:
        self._publish_removed(event.node, event.node.form)

    def _reformed(self, event: Reformed) -> None:
        if self._mediums[event.before] != self._mediums[event.node.form]:
            self._publish_removed(event.node, event.before)
            self._publish_stored(event.node)

    def _publish_stored(self, prefix: PrefixNode) -> None:
        node = self._tree.node_by_id(prefix.handle)
        block = self._block_hash(node)
        self._tree.kv_events.enqueue(
            BlockStored(
                block_hashes=[checkpoint_hash(block)],
                parent_block_hash=block,
                token_ids=[],
                block_size=self._tree.page_size,
                lora_id=None,
                medium=self._mediums[prefix.form],
                cache_salt=node.key.cache_salt,
            )
        )

    def _publish_removed(self, prefix: PrefixNode, form: int) -> None:
        block = self._block_hash(self._tree.node_by_id(prefix.handle))
        self._tree.kv_events.enqueue(
            BlockRemoved(block_hashes=[checkpoint_hash(block)], medium=self._mediums[form])
        )

    def _block_hash(self, node: Any) -> int:
        """As SGLang publishes the last block of ``node``."""
        events = self._tree.kv_events
        last = events._node_event_hash_values(node)[-1]
        return int(
            namespaced_block_hash(
                hash_str_to_int64(last), namespace_seed=events._namespace_seed(node)
            )
        )
