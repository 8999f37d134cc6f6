"""Conversations over shared system prompts, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from sglang_marconi.replay.requests import TraceRequest
from sglang_marconi.replay.tokens import Tokens


class Conversations(NamedTuple):
    """Lengths are in tokens, half and half again of them at random where they are not shared."""

    systems: int
    system_tokens: int
    conversations: int
    turns: int
    message_tokens: int
    reply_tokens: int

    def requests(self, vocabulary: Sequence[int], seed: int) -> list[TraceRequest]:
        """The first turn of every conversation, then the second of every one, and so on.

        Between two turns of a conversation lie those of all others, so that what it left in the
        cache has to survive them. The same seed gives the same requests, another seed none that
        begins like one of these.
        """
        random = Random(seed)
        systems = [random.choices(vocabulary, k=self.system_tokens) for _ in range(self.systems)]
        prompts = [list(systems[i % self.systems]) for i in range(self.conversations)]
        continued = [0] * self.conversations
        requests: list[TraceRequest] = []
        for turn in range(self.turns):
            for i in random.sample(range(self.conversations), self.conversations):
                length = random.randint(self.message_tokens // 2, self.message_tokens * 3 // 2)
                prompts[i] += random.choices(vocabulary, k=length)
                # A real server's reply takes its place.
                reply = random.choices(vocabulary, k=self.reply_tokens)
                requests.append(
                    TraceRequest(
                        session_id=f"{seed}-{i}",
                        turn=turn,
                        arrival=float(len(requests)),
                        prompt=Tokens.plain(list(prompts[i])),
                        reply=Tokens.plain(reply),
                        continues=continued[i],
                    )
                )
                prompts[i] += reply
                continued[i] = len(prompts[i])
        return requests

    @property
    def longest(self) -> int:
        """Tokens of a conversation at its end, at most."""
        a_turn = self.message_tokens * 3 // 2 + self.reply_tokens
        return self.system_tokens + self.turns * a_turn
