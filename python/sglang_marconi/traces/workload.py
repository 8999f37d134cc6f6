"""A seeded multi-turn chat workload: many sessions over a few shared system prompts."""

from random import Random
from typing import NamedTuple

from sglang_marconi.traces.requests import ChatRequest, Message
from sglang_marconi.traces.words import WORDS


class ChatWorkload(NamedTuple):
    """Shape of the workload; the same shape and seed give the same requests.

    Sessions start at random, so that those of different system prompts interleave; within a
    session, turns follow each other at random gaps. Gaps are exponential, in seconds.
    """

    seed: int = 0
    system_prompts: int = 4
    sessions_per_prompt: int = 6
    turns: int = 4
    system_words: int = 1200
    user_words: int = 80
    reply_tokens: int = 32
    mean_session_gap: float = 4.0
    mean_turn_gap: float = 20.0

    def requests(self) -> list[ChatRequest]:
        """Every turn of every session, in order of arrival."""
        random = Random(self.seed)
        systems = [
            Message("system", _text(random, self.system_words)) for _ in range(self.system_prompts)
        ]
        order = [index for index in range(len(systems)) for _ in range(self.sessions_per_prompt)]
        random.shuffle(order)
        requests = []
        start = 0.0
        for session, system in enumerate(order):
            start += random.expovariate(1 / self.mean_session_gap)
            arrival = start
            for turn in range(self.turns):
                user = Message("user", _text(random, self.user_words))
                requests.append(
                    ChatRequest(
                        session_id=f"{system}-{session}",
                        turn=turn,
                        arrival=arrival,
                        new_messages=(user,) if turn else (systems[system], user),
                        max_output_tokens=self.reply_tokens,
                    )
                )
                arrival += random.expovariate(1 / self.mean_turn_gap)
        return sorted(requests, key=lambda request: request.arrival)


def _text(random: Random, words: int) -> str:
    """Sentences of 6 to 14 words, `words` in total."""
    sentences = []
    while words > 0:
        chosen = random.choices(WORDS, k=min(words, random.randint(6, 14)))
        sentences.append(" ".join(chosen).capitalize() + ".")
        words -= len(chosen)
    return " ".join(sentences)
