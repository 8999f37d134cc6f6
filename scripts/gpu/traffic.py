"""Conversations over shared system prompts, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens


class Conversations(NamedTuple):
    """Lengths are in tokens; messages are half as long to half as long again, at random.

    `gap`: how many conversations begin between two turns of one, on average. What a conversation
    left in the cache has to survive these.
    """

    systems: int
    system_tokens: int
    conversations: int
    turns: int
    message_tokens: int
    reply_tokens: int
    gap: float = 5.0

    def requests(self, vocabulary: Sequence[int], seed: int) -> list[TraceRequest]:
        """Every turn, in order of arrival, conversations beginning and going on at random gaps.

        The same seed gives the same requests, another seed none that begins like one of these.
        """
        random = Random(seed)
        systems = [random.choices(vocabulary, k=self.system_tokens) for _ in range(self.systems)]
        order = [number % self.systems for number in range(self.conversations)]
        random.shuffle(order)
        requests: list[TraceRequest] = []
        start = 0.0
        for number, system in enumerate(order):
            start += random.expovariate(1.0)
            arrival, prompt, continues = start, list(systems[system]), 0
            for turn in range(self.turns):
                length = random.randint(self.message_tokens // 2, self.message_tokens * 3 // 2)
                prompt += random.choices(vocabulary, k=length)
                # Its length counts: a real server's own reply takes its place.
                reply = random.choices(vocabulary, k=self.reply_tokens)
                requests.append(
                    TraceRequest(
                        session_id=f"{seed}-{number}",
                        turn=turn,
                        arrival=arrival,
                        prompt=Tokens.plain(list(prompt)),
                        reply=Tokens.plain(reply),
                        continues=continues,
                    )
                )
                prompt += reply
                continues = len(prompt)
                arrival += random.expovariate(1.0 / self.gap)
        return sorted(requests, key=lambda request: request.arrival)
