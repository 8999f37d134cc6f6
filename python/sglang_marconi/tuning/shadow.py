"""The live cache, simulated: requests by their hashes, and what it would keep of them."""

from __future__ import annotations

from functools import cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.utility import PaperUtility
from sglang_marconi.simulate.two_pools import TwoPoolCache
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens
from sglang_marconi.tuning.messages import Finished, Setup
from sglang_marconi.tuning.prefix_hashes import HASH_BYTES


def shadow_cache(setup: Setup) -> TwoPoolCache:
    """An empty cache like the live one, with the current alpha."""
    # The simulator has no host: what would go there is gone.
    forms = [form for form in setup.forms if not form.host_bytes]
    return TwoPoolCache(
        setup.cost,
        EvictionPolicy(setup.cost, PaperUtility(setup.alpha), forms),
        state_bytes=setup.state_bytes,
        kv_bytes=setup.kv_bytes,
        store=bool(forms),
    )


def set_alpha(shadow: TwoPoolCache, alpha: float) -> None:
    """Weigh efficiency otherwise from now on."""
    utility = shadow.policy.valuation
    assert isinstance(utility, PaperUtility)
    utility.alpha = alpha


def recorded(finished: Finished) -> TraceRequest:
    """A finished request, for the simulator.

    Raises `ValueError` where its lengths do not fit each other.
    """
    prompt, length = finished.prompt_length, finished.sequence_length
    if not 0 < prompt <= length or len(finished.hashes) != length * HASH_BYTES:
        raise ValueError(
            f"{prompt} tokens of prompt in a sequence of {length}, {len(finished.hashes)} bytes"
        )
    hashes = np.frombuffer(finished.hashes, np.uint32)
    return TraceRequest("", 0, 0.0, _Prompt(hashes, prompt), _tokens(hashes[prompt:]))


class _Prompt(Tokens):
    """A prompt that knows its sequence.

    The simulator's tree keeps whole sequences; this way they share their memory with the
    requests and their ends with each other, which is 4 bytes a token instead of 16.
    """

    __slots__ = ("_sequence",)

    def __init__(self, hashes: NDArray[np.uint32], length: int) -> None:
        self._sequence = _tokens(hashes)
        super().__init__(self._sequence.ids[:length], self._sequence.ends[:length])

    def __add__(self, other: Tokens) -> Tokens:
        return self._sequence


def _tokens(hashes: NDArray[np.uint32]) -> Tokens:
    ends = _ends(max(len(hashes) - 1, 0).bit_length())
    # Tokens are compared and looked up, never calculated with: they may be narrower.
    return Tokens(cast("NDArray[np.int64]", hashes), ends[: len(hashes)])


@cache
def _ends(bits: int) -> NDArray[np.int64]:
    """The ends of up to ``2**bits`` runs of one token."""
    return np.arange(1, (1 << bits) + 1)
