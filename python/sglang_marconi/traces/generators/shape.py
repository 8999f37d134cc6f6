"""What a generated workload looks like, and how it is generated."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sglang_marconi.traces.generators.distributions import Distribution
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens

_Ids = NDArray[np.int64]

_VOCABULARY = 32_000
"""Token ids are drawn from as many as Llama 2 has, whose tokenizer the paper's artifact uses."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sessions of several turns; the same shape generates the same requests.

    Sessions start at random, `sessions_per_second` of them on average, and exponential gaps,
    `mean_turn_gap` seconds on average, lie between the arrivals of a session's turns. `turns` is
    how many turns a session has. Lengths are in tokens: `first_message` and `message` are what
    a session's first and later turns add, `reply` what is replied. The first `system_tokens`
    tokens of all prompts are the same, everything else is drawn anew.

    A turn's prompt is everything earlier in its session, then its message. With
    `messages_kept`, the messages older than that many are left out but for the first, so that
    such a turn does not continue the one before it. A session ends before a prompt of more than
    `max_prompt_tokens`; where that is often, sessions are shorter than the settings say. The
    default is the Marconi paper's artifact's limit.

    Raises `ValueError` for a rate that is not above 0, and where not even a turn's own message
    is kept.
    """

    turns: Distribution
    first_message: Distribution
    message: Distribution
    reply: Distribution
    system_tokens: int = 0
    messages_kept: int | None = None
    max_prompt_tokens: int = 32_768
    sessions: int = 100
    sessions_per_second: float = 1.0
    mean_turn_gap: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sessions_per_second <= 0:
            raise ValueError(f"sessions_per_second is {self.sessions_per_second}, not above 0")
        if self.messages_kept is not None and self.messages_kept < 1:
            raise ValueError(f"messages_kept is {self.messages_kept}, not at least 1")

    def requests(self) -> list[TraceRequest]:
        """Every turn of every session, in order of arrival."""
        random = np.random.default_rng(self.seed)
        system = _text(random, self.system_tokens)
        ends = np.arange(1, self.max_prompt_tokens + 1)
        requests: list[TraceRequest] = []
        start = 0.0
        for session in range(self.sessions):
            start += random.exponential(1 / self.sessions_per_second)
            requests.extend(self._session(random, str(session), start, system, ends))
        return sorted(requests, key=lambda request: request.arrival)

    def _session(
        self, random: Generator, name: str, arrival: float, system: _Ids, ends: _Ids
    ) -> Iterator[TraceRequest]:
        texts = [system]  # The system prompt, then of each turn its message and its reply.
        continues = 0
        for turn in range(self.turns.draw(random)):
            length = self.message if turn else self.first_message
            texts.append(_text(random, length.draw(random)))
            if self.messages_kept is not None and turn > self.messages_kept:
                dropped = 1 + 2 * (turn - self.messages_kept)
                texts[dropped] = texts[dropped][:0]
                continues = 0
            ids = np.concatenate(texts)
            if len(ids) > self.max_prompt_tokens:
                return
            # Prompts share their ends: they are half of the memory that a workload takes.
            prompt = Tokens(ids, ends[: len(ids)])
            reply = _text(random, self.reply.draw(random))
            yield TraceRequest(name, turn, arrival, prompt, Tokens.plain(reply), continues)
            texts.append(reply)
            continues = len(ids) + len(reply)
            arrival += random.exponential(self.mean_turn_gap)


def _text(random: Generator, length: int) -> _Ids:
    return random.integers(_VOCABULARY, size=length)
