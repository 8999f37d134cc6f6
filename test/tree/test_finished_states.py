"""What a finished request leaves: a state only under the prefix that it stands for, if at all.

With the cache's options that let the length of the request's KV differ from that of its state.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from sglang.srt.managers.schedule_batch import FINISH_MATCHED_STR, Req
from sglang.srt.mem_cache import common
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cost import token_length_cost
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.utility import PaperUtility
from support.tree_serving import PAGES_OF_FOUR, SINGLE_TOKENS, Flight, Serving
from support.watched_tree import MAMBA, Tokens

STRATEGIES = {
    "no_buffer": SINGLE_TOKENS,
    "extra_buffer": replace(SINGLE_TOKENS, enable_mamba_extra_buffer=True, mamba_cache_size=16),
    "extra_buffer, pages of 4": PAGES_OF_FOUR,
}
PROMPT = list(range(1, 9))


@contextmanager
def thinking_stripped() -> Iterator[None]:
    """``--strip-thinking-cache``, as SGLang asks for it when a request ends."""
    serving = SimpleNamespace(strip_thinking_cache=True)
    owned = "sglang.srt.managers.schedule_batch.get_serving"
    with (
        mock.patch(owned, lambda: serving),
        mock.patch.object(common, "get_serving", lambda: serving),
    ):
        yield


class MarkedServing(Serving):
    """A cache in whose requests each slot is known by the tokens that its state stands for."""

    def __init__(self, cfg: CacheConfig, *, ring: int | None = None) -> None:
        """``ring``: ReplaySSM, which folds decoded tokens into the state in so many at a time.

        The convolutions' windows have them at once, so that a slot stands for a prefix only while
        none is left to fold.
        """
        cost = token_length_cost(state_bytes=100, kv_bytes_per_token=1)
        super().__init__(cfg, EvictionPolicy(cost, PaperUtility(0.0)))
        self.stands_for: dict[int, Tokens] = {}
        self.ring = ring
        if ring is not None:
            positions = torch.zeros(cfg.mamba_cache_size + 1, dtype=torch.int32)
            self.pool.mamba_pool.replayssm_write_pos = positions

    def run(self, prompt: Sequence[int], reply: Sequence[int], *, track: int | None) -> Flight:
        """A request before its end, of whose reply all tokens but the last were computed.

        ``track``: the prefix whose state is in a tracking slot.
        """
        flight = self.begin(prompt)
        assert flight is not None
        self.chunk(flight, len(prompt))
        self.decode(flight, reply)
        kv = flight.req.kv
        unfolded = len(reply) % self.ring if self.ring is not None else 0
        if self.ring is not None:
            self.pool.mamba_pool.replayssm_write_pos[kv.mamba_pool_idx] = unfolded
        computed = tuple(flight.tokens)
        self.stands_for[int(kv.mamba_pool_idx)] = () if unfolded else computed
        if track is not None:
            keep = kv.mamba_next_track_idx
            self.stands_for[int(kv.mamba_ping_pong_track_buffer[keep])] = computed[:track]
        # The last token that was sampled.
        flight.req.output_ids.append(99)
        return flight

    def kept(self) -> list[Tokens]:
        """The prefixes that have a state; each has the one that stands for it."""
        nodes = [node for node in self.tree._collect_all_nodes() if node is not self.tree.root_node]
        found = []
        for node in nodes:
            value = node.component_data[MAMBA].value
            if value is not None:
                prefix = self.tree.tokens(node)
                assert self.stands_for[int(value)] == prefix
                if self.ring is not None:
                    assert not self.pool.mamba_pool.replayssm_write_pos[int(value)]
                found.append(prefix)
        return found

    def assert_nothing_is_lost(self) -> None:
        """SGLang's own check of a server that is idle."""
        self.cache.sanity_check()
        held = self.cache.mamba_evictable_size() + self.cache.mamba_protected_size()
        assert self.states.available_size() + held == self.cfg.mamba_cache_size
        kv = self.cache.full_evictable_size() + self.cache.full_protected_size()
        assert self.kv.available_size() + kv == self.cfg.kv_size


@pytest.mark.parametrize("reply", range(12))
@pytest.mark.parametrize("thinks", [False, True], ids=["", "stripped"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_state_stands_for_the_prefix_that_it_is_filed_under(
    strategy: str, thinks: bool, reply: int
) -> None:
    cfg = STRATEGIES[strategy]
    serving = MarkedServing(cfg)
    at = (len(PROMPT) + reply) // 4 * 4
    track = at if cfg.enable_mamba_extra_buffer else None
    flight = serving.run(PROMPT, range(20, 20 + reply), track=track)
    computed = tuple(flight.tokens)
    flight.req.reasoning_tokens = int(thinks and reply > 0)
    if flight.req.reasoning_tokens:
        with thinking_stripped():
            serving.finish(flight, tracked=track)
    else:
        serving.finish(flight, tracked=track)
    kept = serving.kept()
    if not flight.req.reasoning_tokens:
        whole = len(computed) // cfg.page_size * cfg.page_size
        assert kept == [computed[:whole]]
    else:
        # The prompt's own end, where it was tracked.
        assert kept == ([tuple(PROMPT)] if track == len(PROMPT) else [])
    serving.assert_nothing_is_lost()


@pytest.mark.parametrize("strategy", ["extra_buffer", "extra_buffer, pages of 4"])
def test_stripped_thinking_leaves_what_was_tracked_inside_the_prompt(strategy: str) -> None:
    serving = MarkedServing(STRATEGIES[strategy])
    flight = serving.run(PROMPT, range(20, 28), track=4)
    flight.req.reasoning_tokens = 1
    with thinking_stripped():
        serving.finish(flight, tracked=4)
    assert serving.kept() == [tuple(PROMPT[:4])]
    serving.assert_nothing_is_lost()


@pytest.mark.parametrize("reply", range(12))
@pytest.mark.parametrize("thinks", [False, True], ids=["", "stripped"])
def test_a_state_with_tokens_left_to_replay_is_not_kept(thinks: bool, reply: int) -> None:
    serving = MarkedServing(SINGLE_TOKENS, ring=4)
    flight = serving.run(PROMPT, range(20, 20 + reply), track=None)
    computed = tuple(flight.tokens)
    flight.req.reasoning_tokens = int(thinks and reply > 0)
    if flight.req.reasoning_tokens:
        with thinking_stripped():
            serving.finish(flight)
        assert serving.kept() == []
    else:
        serving.finish(flight)
        assert serving.kept() == ([] if reply % 4 else [computed])
    serving.assert_nothing_is_lost()


def test_sglang_ends_a_request_of_no_numbers_with_the_reason_that_is_looked_for() -> None:
    reason: Any = broken_down(Req("1", "", array("q", [1]), SamplingParams(max_new_tokens=9)))
    assert isinstance(reason, FINISH_MATCHED_STR)


def broken_down(req: Req) -> object:
    """How SGLang ends a request whose token was drawn from what is no number."""
    req.sampling_params.max_new_tokens = 100
    req.vocab_size = 50
    req.eos_token_ids = {0}
    req.output_ids.append(2**31)
    req.update_finish_state()
    return req.finished_reason


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_no_number_is_not_kept(strategy: str) -> None:
    cfg = STRATEGIES[strategy]
    serving = MarkedServing(cfg)
    track = 12 if cfg.enable_mamba_extra_buffer else None
    flight = serving.run(PROMPT, range(20, 24), track=track)
    flight.req.output_ids.pop()
    reason = broken_down(flight.req)
    serving.end(flight, reason, tracked=track)
    assert serving.kept() == []
    # The prompt's KV was there before; the reply's is not offered to others.
    assert serving.match([*PROMPT, *range(20, 24)]).full_kv_hit_length == len(PROMPT)
    serving.assert_nothing_is_lost()
