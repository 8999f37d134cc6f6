"""What a server without a prefix cache answers: what no cache may change."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from support.client import Reply, generate_batch

WITHOUT_CACHE = (
    "--disable-radix-cache",
    *("--max-total-tokens", "32768", "--max-mamba-cache-size", "40"),
    *("--max-running-requests", "16"),
)

TOLERANCE = 1e-4
"""In float32 on a CPU; a state resumed at another token sums in another order."""

Ask = tuple[Sequence[int], int]
"""A prompt, and the number of tokens to generate."""


class Reference:
    """Asks such a server, many prompts at once and each only once.

    SGLang's own, it shares no mistake with our cache, as an emptied one of ours would.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._known: dict[tuple[tuple[int, ...], int], Reply] = {}

    def answers(self, asks: Sequence[Ask]) -> list[Reply]:
        """The answers to requests, as of an empty cache."""
        keys = [(tuple(prompt), count) for prompt, count in asks]
        if new := [key for key in dict.fromkeys(keys) if key not in self._known]:
            prompts, counts = zip(*new, strict=True)
            replies = generate_batch(self._url, prompts, counts, seconds=True)
            self._known.update(zip(new, replies, strict=True))
        return [self._known[key] for key in keys]

    def check(self, asks: Sequence[Ask], replies: Sequence[Reply]) -> None:
        """Replies must be of the same tokens, as probable within the tolerance.

        Of two tokens that are as probable as each other within it, the rounding decides, which
        depends on what else is in the batch. A reply may have either, and from there on has to be
        the answer to what it has.
        """
        followed, rests = [], []
        for (prompt, count), reply, expected in zip(asks, replies, self.answers(asks), strict=True):
            assert len(reply.output_ids) == len(expected.output_ids)
            at = _tie(reply, expected)
            if at is None:
                assert_same(reply, expected)
                continue
            ids, end = reply.output_ids, at + 1
            until = [*expected.logprobs[:at], expected.seconds[at][1]]
            assert_same(Reply(ids[:end], reply.logprobs[:end], 0), Reply(ids[:end], until, 0))
            if end < count:
                followed.append(([*prompt, *ids[:end]], count - end))
                rests.append(Reply(ids[end:], reply.logprobs[end:], 0))
        if followed:
            self.check(followed, rests)


def _tie(reply: Reply, expected: Reply) -> int | None:
    """Where the first token that differs is, if it is the second of two as probable."""
    for at, (token, best) in enumerate(zip(reply.output_ids, expected.output_ids, strict=False)):
        if token != best:
            second, behind = expected.seconds[at]
            return at if token == second and expected.logprobs[at] - behind <= TOLERANCE else None
    return None


def assert_same(reply: Reply, expected: Reply) -> None:
    """The same tokens, and as probable: reuse may change neither."""
    assert reply.output_ids == expected.output_ids
    if reply.logprobs:
        assert reply.logprobs == pytest.approx(expected.logprobs, abs=TOLERANCE)
