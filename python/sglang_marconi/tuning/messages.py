"""What the scheduler and its sidecar tell each other, in msgpack."""

from __future__ import annotations

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.forms import Form
from sglang_marconi.simulate.tuner import ALPHAS


class Setup(Struct, tag=True, array_like=True, frozen=True):
    """To the sidecar, first of all: the cache to simulate. Pool sizes are in bytes.

    ``forms``: those of a checkpoint where there is a store for them, else none.
    """

    cost: ModelCost
    state_bytes: int
    kv_bytes: int
    alpha: float
    candidates: tuple[float, ...] = ALPHAS
    forms: tuple[Form, ...] = ()


class Finished(Struct, tag=True, array_like=True, frozen=True):
    """To the sidecar: a finished request.

    ``number`` counts requests, those too that were not sent. Lengths are in tokens, that of the
    sequence includes the reply. ``hashes``: a uint32 for each token of the sequence.
    """

    number: int
    prompt_length: int
    sequence_length: int
    hashes: bytes


class Alive(Struct, tag=True, array_like=True, frozen=True):
    """From the sidecar, at least every `HEARTBEAT` seconds: it works.

    Requests it received, did not receive although they were numbered, and frames it dropped
    as garbage.
    """

    received: int = 0
    missing: int = 0
    garbage: int = 0


class Tuned(Struct, tag=True, array_like=True, frozen=True):
    """From the sidecar: the alpha that would have served a window of requests best.

    ``number``: the window's last request. ``hit_rates``: reused over prompt tokens, by
    candidate. ``seconds``: what the replay took.
    """

    alpha: float
    number: int
    hit_rates: dict[float, float]
    seconds: float


HEARTBEAT = 1.0

BATCH = 16
"""Finished requests that go together, each a frame: waking who sends costs more than to hash."""

HIGH_WATER = 16
"""Batches that wait on either side; a request takes 4 bytes a token."""

encode = Encoder().encode
decode_for_sidecar = Decoder(Setup | Finished).decode
decode_for_scheduler = Decoder(Alive | Tuned).decode
