"""Token ids made unreadable, so that what leaves the scheduler is no text."""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HASH_BYTES = 4
_FIRST_KEYS = 1 << 15


class PrefixHasher:
    """One hash for each token, keyed by where it stands.

    Two sequences hashed here have as many hashes in common at their start as they have tokens
    in common. Not one hash for a block of tokens: a finished request's state stands after any
    token, mostly inside a block that its next turn goes on with, and hashes of the two blocks
    could not tell that one starts with the other.

    A hash is the product with a random odd key modulo 2**32: the multilinear hashing of Lemire
    and Kaser (arXiv 1202.4961) for strings of one character, where it is one to one. The keys
    are drawn once, so another process has others, and a list of known tokens' hashes is of no
    use. It is no encryption: who knows a text and its hashes knows the keys.
    """

    def __init__(self) -> None:
        self._random = np.random.default_rng(secrets.randbits(128))
        self._keys = self._draw(_FIRST_KEYS)

    def hash(self, tokens: array[int] | NDArray[np.int64] | Sequence[int]) -> bytes:
        """The hashes of ``tokens``: uint32, in the machine's byte order."""
        if isinstance(tokens, array) and tokens.typecode == "q" and tokens:
            ids = np.frombuffer(tokens, np.int64)
        else:
            ids = np.asarray(tokens, np.int64)
        while len(ids) > len(self._keys):
            self._keys = np.concatenate((self._keys, self._draw(len(self._keys))))
        keys = self._keys[: len(ids)]
        return np.multiply(ids, keys, dtype=np.uint32, casting="unsafe").tobytes()

    def _draw(self, count: int) -> NDArray[np.uint32]:
        return self._random.integers(1 << 32, size=count, dtype=np.uint32) | np.uint32(1)
