"""Names of prefixes that tell whether two are the same, and nothing of what they say."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sglang_marconi.events import Cleared, Observer, Removed

if TYPE_CHECKING:
    from sglang_marconi.cache.tree_core import MarconiTreeCore
    from sglang_marconi.policy.ledger import PrefixNode

_FIRST_KEYS = 1 << 12


class Identities:
    """The same name for the same prefix, as long as the process runs; in another one, another.

    A prefix is first hashed by a random key for each position (the multilinear hash of Lemire and
    Kaser, arXiv 1202.4961), which is a sum: a node's is its parent's and that of its own tokens,
    computed when it is first asked for. It is published under a keyed one-way hash.
    """

    def __init__(self, observer: Observer, tree: MarconiTreeCore) -> None:
        self._tree = tree
        self._secret = secrets.token_bytes(32)
        self._random = np.random.default_rng(secrets.randbits(128))
        self._keys = self._draw(_FIRST_KEYS)
        self._sums: dict[PrefixNode, int] = {}
        observer.on(Removed, self._removed)
        observer.on(Cleared, self._cleared)

    def name(self, prefix: PrefixNode) -> str:
        """12 hexadecimal digits."""
        whole = self._sum(prefix).to_bytes(8, "little")
        return blake2b(whole, key=self._secret, digest_size=6).hexdigest()

    def _sum(self, prefix: PrefixNode) -> int:
        path = []
        above: PrefixNode | None = prefix
        while above is not None and above not in self._sums:
            path.append(above)
            above = above.parent
        total = self._sums[above] if above is not None else 0
        for node in reversed(path):
            if node.parent is not None:
                total = (total + self._own(node, node.parent.depth)) % (1 << 64)
            self._sums[node] = total
        return total

    def _own(self, prefix: PrefixNode, start: int) -> int:
        key = self._tree.node_by_id(prefix.handle).key
        tokens = np.asarray(key.raw_token_ids(), np.int64)[: prefix.depth - start].view(np.uint64)
        while prefix.depth > len(self._keys):
            self._keys = np.concatenate((self._keys, self._draw(len(self._keys))))
        own = int(np.dot(tokens, self._keys[start : prefix.depth]))
        # What the prefix is a prefix of: another adapter's or tenant's is another one.
        return own + hash((key.extra_key, key.cache_salt)) if start == 0 else own

    def _draw(self, count: int) -> NDArray[np.uint64]:
        return self._random.integers(0, 1 << 64, count, dtype=np.uint64)

    def _removed(self, event: Removed) -> None:
        self._sums.pop(event.node, None)

    def _cleared(self, _event: Cleared) -> None:
        self._sums.clear()
