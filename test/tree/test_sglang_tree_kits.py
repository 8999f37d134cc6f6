"""SGLang's in-process kits for its unified radix cache, on our cache and component.

The installed kits are builders and steps without test methods; the tests here drive
them. Where SGLang's rule for admitting a state differs from ours, the test says so.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

from sglang.srt.mem_cache.base_prefix_cache import EvictParams, MatchPrefixParams
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.unified_cache.components import ComponentType
from sglang.test.kits.unified_radix_cache import core, fixtures, insert_walk
from sglang.test.kits.unified_radix_cache.config import CONFIGS, CacheConfig, config_attrs
from sglang.test.kits.unified_radix_cache.fixtures import build_fixture, match_prefix
from sglang.test.mem_cache_utils import finish_req
from sglang.test.test_utils import CustomTestCase
from sglang_marconi.cache.mamba_component import MarconiMambaComponent
from sglang_marconi.cache.radix_cache import MarconiRadixCache
from support.tree_serving import run_pass

MAMBA = ComponentType.MAMBA
HYBRID = (ComponentType.FULL, MAMBA)

# SGLang's kit has no page of one token with tracking slots, which is what we serve by default.
_TRACKED_TOKENS = CacheConfig(
    components=HYBRID, enable_mamba_extra_buffer=True, mamba_cache_size=60
)
# Slots enough, as a server has, that states under way leave requests theirs.
_CONFIGS = tuple(
    replace(cfg, max_num_reqs=4)
    for cfg in (*(each for each in CONFIGS if each.has_mamba), _TRACKED_TOKENS)
)


def _per_configuration(suite: type, configurations: Sequence[CacheConfig] = _CONFIGS) -> None:
    """Define one test class for each configuration."""
    for cfg in configurations:
        strategy = "extra_buffer" if cfg.enable_mamba_extra_buffer else "no_buffer"
        name = f"Test{suite.__name__}_{cfg.label}_{strategy}"
        attributes = {**config_attrs(suite, cfg), "__module__": __name__}
        globals()[name] = type(name, (suite, CustomTestCase), attributes)


class Core(core.UnifiedRadixCacheCoreFixtures):
    """Insert, match, split and evict through the kit's own steps."""

    def test_the_kit_builds_our_cache(self) -> None:
        cache, _, _ = build_fixture(self.cfg)
        self.assertIsInstance(cache, MarconiRadixCache)
        self.assertIsInstance(cache.components[MAMBA], MarconiMambaComponent)

    def test_an_inserted_sequence_matches_whole_and_evicts_whole(self) -> None:
        cache, allocator, pool = build_fixture(self.cfg)
        free_kv = allocator.available_size()
        free_states = pool.mamba_allocator.available_size()
        sequence = self._make_seq(1, 3)
        self._insert(cache, allocator, pool, sequence)
        held = free_states - pool.mamba_allocator.available_size()
        self.assertEqual(match_prefix(cache, sequence).device_prefix_len, len(sequence))
        cache.evict(EvictParams(num_tokens=len(sequence)))
        cache.sanity_check()
        self.assertEqual(match_prefix(cache, sequence).device_prefix_len, 0)
        self.assertEqual(allocator.available_size(), free_kv)
        # The kit's request keeps its tracking slots; the tree gave back the one it had.
        self.assertEqual(pool.mamba_allocator.available_size(), free_states - held + 1)

    def test_a_split_leaves_no_state_and_reports_the_exact_branch(self) -> None:
        # SGLang would round the branch down to its kernel's chunk of 64 tokens.
        cache, allocator, pool = build_fixture(self.cfg)
        shared = self._make_seq(1, 2)
        page = self.cfg.page_size
        self._insert(cache, allocator, pool, shared + self._make_seq(10000, 1))
        for torn in (0, page - 1):
            asked = shared + list(range(10000, 10000 + torn)) + self._make_seq(20000, 2)
            match = match_prefix(cache, asked)
            self.assertEqual(match.device_prefix_len, 0)
            self.assertEqual(match.mamba_branching_seqlen, len(shared))
        cache.sanity_check()

    def test_a_leaf_without_its_state_keeps_its_kv_and_is_no_branch(self) -> None:
        cache, allocator, pool = build_fixture(self.cfg)
        ended = self._make_seq(1, 2)
        self._insert(cache, allocator, pool, ended)
        free_kv = allocator.available_size()
        cache.evict(EvictParams(num_tokens=0, mamba_num=1))
        cache.sanity_check()
        match = match_prefix(cache, ended + self._make_seq(20000, 1))
        self.assertEqual((match.full_kv_hit_length, match.device_prefix_len), (len(ended), 0))
        self.assertIsNone(match.mamba_branching_seqlen)
        self.assertEqual(allocator.available_size(), free_kv)

    def test_no_branch_where_a_state_stands(self) -> None:
        cache, allocator, pool = build_fixture(self.cfg)
        shared = self._make_seq(1, 2)
        self._insert(cache, allocator, pool, shared)
        match = match_prefix(cache, shared + self._make_seq(20000, 2))
        self.assertEqual(match.device_prefix_len, len(shared))
        self.assertIsNone(match.mamba_branching_seqlen)

    def test_evicting_states_keeps_the_kv_and_opens_the_branch_again(self) -> None:
        cache, allocator, pool = build_fixture(self.cfg)
        chain = self._build_chain_pages(cache, allocator, pool, 3)
        tokens = self._match_tokens_for_chain(cache, chain)
        cache.evict(EvictParams(num_tokens=0, mamba_num=1))
        cache.sanity_check()
        # The oldest state is the first page's: the two below it stay usable.
        self.assertEqual(match_prefix(cache, tokens).device_prefix_len, len(tokens))
        first = match_prefix(cache, tokens[: self.cfg.page_size])
        self.assertEqual(first.device_prefix_len, 0)
        if not self.cfg.has_swa:
            self.assertEqual(first.mamba_branching_seqlen, self.cfg.page_size)


class Checkpoints(core.UnifiedRadixCacheCoreFixtures):
    """A request's checkpoints, from its first chunk to its end."""

    def _start(self, tokens: list[int], branch: int | None = None) -> tuple[Any, ...]:
        cache, allocator, pool = build_fixture(self.cfg)
        req, _ = self._make_inflight_req(cache, allocator, pool, tokens, allocated=True)
        req.mamba_branching_seqlen = branch
        return cache, allocator, pool, req

    def _finish(self, cache: Any, req: Any, up_to: int) -> None:
        finish_req(cache, req, up_to)
        cache.sanity_check()

    def _states_in_use(self, pool: Any) -> int:
        return int(self.cfg.mamba_cache_size - pool.mamba_allocator.available_size())

    def test_the_prompt_enters_without_a_state(self) -> None:
        # SGLang's component would leave a state at the prompt's end.
        tokens = self._make_seq(1, 3)
        cache, _, pool, req = self._start(tokens)
        in_use = self._states_in_use(pool)
        cache.checkpoint(req, up_to=len(tokens))
        match = match_prefix(cache, tokens)
        self.assertEqual((match.full_kv_hit_length, match.device_prefix_len), (len(tokens), 0))
        self.assertEqual(match.mamba_branching_seqlen, len(tokens))
        self.assertEqual(self._states_in_use(pool), in_use)
        cache.sanity_check()

    def test_a_chunk_that_ends_off_the_branch_leaves_nothing(self) -> None:
        # SGLang's component would leave a state at every chunk's end.
        tokens = self._make_seq(1, 3)
        cache, _, _, req = self._start(tokens, branch=2 * self.cfg.page_size)
        cache.checkpoint(req, up_to=self.cfg.page_size)
        self.assertEqual(match_prefix(cache, tokens).full_kv_hit_length, 0)
        self.assertEqual(req.kv.cache_protected_len, 0)

    def test_a_pass_leaves_the_state_of_its_branch(self) -> None:
        """Whether the branch is inside it or at its end; the request goes on in its slot."""
        tokens = self._make_seq(1, 3)
        branch = 2 * self.cfg.page_size
        for end in (branch, len(tokens)):
            cache, _, pool, req = self._start(tokens, branch=branch)
            live, in_use = int(req.kv.mamba_pool_idx), self._states_in_use(pool)
            run_pass(cache, req, 0, end)
            cache.checkpoint(req, up_to=end)
            match = match_prefix(cache, tokens)
            self.assertEqual(match.device_prefix_len, branch)
            stored = cache.tree_core.get_component_device_value(match.last_device_node, MAMBA)
            self.assertNotEqual(stored.tolist(), [live])
            self.assertEqual(int(req.kv.mamba_pool_idx), live)
            self.assertEqual(self._states_in_use(pool), in_use + 1)
            self._finish(cache, req, len(tokens))
            self.assertEqual(self._states_in_use(pool), 2)

    def test_the_end_leaves_the_live_state_at_the_last_token(self) -> None:
        tokens = self._make_seq(1, 3)
        cache, _, pool, req = self._start(tokens)
        live = int(req.kv.mamba_pool_idx)
        self._finish(cache, req, len(tokens))
        match = match_prefix(cache, tokens)
        self.assertEqual(match.device_prefix_len, len(tokens))
        stored = cache.tree_core.get_component_device_value(match.last_device_node, MAMBA)
        self.assertEqual(stored.tolist(), [live])
        self.assertEqual(self._states_in_use(pool), 1)

    def test_a_second_state_of_one_prefix_is_given_back(self) -> None:
        tokens = self._make_seq(1, 2)
        cache, allocator, pool, req = self._start(tokens)
        self._finish(cache, req, len(tokens))
        again, _ = self._make_inflight_req(cache, allocator, pool, tokens, allocated=True)
        self._finish(cache, again, len(tokens))
        self.assertEqual(self._states_in_use(pool), 1)

    def test_an_aborted_request_gives_its_states_back(self) -> None:
        cache, _, pool, req = self._start(self._make_seq(1, 2))
        cache.on_release(req, checkpointed=False)
        self.assertEqual(self._states_in_use(pool), 0)

    def test_requests_of_one_tree_lose_no_slot(self) -> None:
        """Random requests, branches and evictions; what is left is what the tree holds."""
        for seed in range(4):
            self._run_requests(random.Random(seed))

    def _run_requests(self, chooser: random.Random, steps: int = 30) -> None:
        cache, allocator, pool = build_fixture(self.cfg)
        free_kv = allocator.available_size()
        page = self.cfg.page_size
        seen: list[list[int]] = []
        for step in range(steps):
            old = chooser.choice(seen) if seen and chooser.random() < 0.7 else []
            keep = chooser.randrange(len(old) // page + 1)
            tokens = old[: keep * page] + self._make_seq(1000 * (step + 1), chooser.randrange(1, 3))
            if len(tokens) > 7 * page:
                continue
            self._request(cache, allocator, pool, tokens, chooser)
            seen.append(tokens)
            if chooser.random() < 0.3:
                cache.evict(EvictParams(num_tokens=page, mamba_num=chooser.randrange(3)))
            cache.sanity_check()
            self.assertEqual(
                allocator.available_size() + cache.full_evictable_size(),
                free_kv,
            )
            self.assertEqual(self._states_in_use(pool), cache.mamba_evictable_size())

    def _request(
        self, cache: Any, allocator: Any, pool: Any, tokens: list[int], chooser: random.Random
    ) -> None:
        """One request, as the scheduler drives it: match, chunks, prompt, end."""
        if pool.mamba_allocator.available_size() < 4:
            cache.evict(EvictParams(num_tokens=0, mamba_num=4))
        req = self._make_req(pool)
        req.origin_input_ids = array("q", tokens)
        req.output_ids = array("q")
        req.full_untruncated_fill_ids = array("q", tokens)
        req.extra_key = None
        match = cache.match_prefix(
            MatchPrefixParams(key=RadixKey(array("q", tokens[:-1])), req=req, cow_mamba=True)
        )
        start = match.device_prefix_len
        req.last_node = match.last_device_node
        req.lock = cache.lock(req.last_node)
        req.mamba_branching_seqlen = match.mamba_branching_seqlen
        need = len(tokens) - start
        if allocator.available_size() < need:
            cache.evict(EvictParams(num_tokens=need))
        row = req.kv.req_pool_idx
        pool.write((row, slice(0, start)), cache.path_device_indices(req.last_node))
        pool.write((row, slice(start, len(tokens))), self._alloc(allocator, need))
        req.kv.kv_committed_len = req.kv.kv_allocated_len = len(tokens)
        req.kv.cache_protected_len = start
        branch = req.mamba_branching_seqlen
        if branch is not None and chooser.random() < 0.8:
            # A window of attention that ends beyond the branch is not kept up to it.
            end = chooser.choice([branch, branch if self.cfg.has_swa else len(tokens)])
            run_pass(cache, req, start, end)
            cache.checkpoint(req, up_to=end)
            match = match_prefix(cache, tokens[:branch])
            self.assertEqual(match.device_prefix_len, branch)
        if chooser.random() < 0.8:
            cache.checkpoint(req, up_to=len(tokens))
        finish_req(cache, req, len(tokens))
        pool.free(req)
        self.assertEqual(match_prefix(cache, tokens).device_prefix_len, len(tokens))


for _suite in (Core, Checkpoints):
    _per_configuration(_suite)


class SegmentLockFuzz(insert_walk.SegmentLockFuzzFixtures):
    """The kit's random inserts, locks and evictions; it checks the tree after each."""

    def test_fuzz(self) -> None:
        with mock.patch.object(insert_walk, "build_fixture", _build_for_the_fuzz):
            for seed in range(6):
                self._run_seed(seed)


def _build_for_the_fuzz(cfg: CacheConfig) -> tuple[Any, Any, Any]:
    """The kit's tree; one without a sliding window gets what the fuzz takes for granted."""
    cache, allocator, pool = build_fixture(cfg)
    if not cfg.has_swa:
        allocator.free_swa = lambda _indices: None
        inc_lock_ref = cache.inc_lock_ref

        def lock(*args: Any, **kwargs: Any) -> Any:
            receipt = inc_lock_ref(*args, **kwargs)
            receipt.component_lock_uuids.setdefault(ComponentType.SWA, None)
            return receipt

        cache.inc_lock_ref = lock
    return cache, allocator, pool


# The fuzz inserts off page boundaries, and its requests never give a slot back.
_FUZZED = CacheConfig(
    components=HYBRID, kv_size=512, max_num_reqs=150, mamba_cache_size=600, max_context_len=1024
)
_WINDOWED = replace(
    _FUZZED,
    components=(ComponentType.FULL, ComponentType.SWA, MAMBA),
    sliding_window_size=4,
)
_per_configuration(
    SegmentLockFuzz,
    [
        replace(cfg, enable_mamba_extra_buffer=tracked)
        for cfg in (_FUZZED, _WINDOWED)
        for tracked in (False, True)
    ],
)


class TestFinishedRequest(core.MambaFinishedOvershootCheckpointFixtures, CustomTestCase):
    """The kit's finished request of 12 tokens with two tracked states."""

    _rid = 0
    cfg = _TRACKED_TOKENS

    def _finished(self, previous: int | None, up_to: int) -> tuple[Any, Any, list[int]]:
        cache, allocator, pool = build_fixture(self.cfg)
        req, tokens = self._build_req(allocator, pool, previous)
        req.last_node, req.lock = cache.root_node_handle(), None
        finish_req(cache, req, up_to)
        cache.sanity_check()
        return match_prefix(cache, tokens), pool, tokens

    def _states_in_use(self, pool: Any) -> int:
        return int(self.cfg.mamba_cache_size - pool.mamba_allocator.available_size())

    def test_the_live_state_serves_where_it_is_exact(self) -> None:
        # SGLang would keep a tracked state; ours is the live one, at the same length.
        match, pool, tokens = self._finished(previous=8, up_to=12)
        self.assertEqual(match.device_prefix_len, len(tokens))
        self.assertEqual(self._states_in_use(pool), 1)

    def test_an_earlier_tracked_state_serves_where_the_live_one_is_ahead(self) -> None:
        match, pool, _ = self._finished(previous=8, up_to=10)
        self.assertEqual(match.device_prefix_len, 8)
        self.assertEqual(self._states_in_use(pool), 1)

    def test_kv_alone_enters_where_every_state_is_ahead(self) -> None:
        # SGLang would insert nothing at all.
        for previous in (None, 11):
            match, pool, _ = self._finished(previous=previous, up_to=10)
            self.assertEqual((match.full_kv_hit_length, match.device_prefix_len), (10, 0))
            self.assertEqual(self._states_in_use(pool), 0)


class TestMatchRefresh(core.UnifiedMambaLRUMatchRefreshFixtures, CustomTestCase):
    """A match makes the state that it uses the newest, and no other."""

    def test_only_the_used_state_is_refreshed(self) -> None:
        cfg = CacheConfig(components=HYBRID)
        cache, allocator, pool = build_fixture(cfg)
        kit = core.UnifiedRadixCacheCoreFixtures()
        kit.cfg = cfg
        parent, child, other = [1, 2], [1, 2, 3, 4], [9, 8]
        for tokens in (parent, child, other):
            kit._insert(cache, allocator, pool, tokens)
        nodes = [match_prefix(cache, tokens).last_device_node for tokens in (parent, other)]
        used = match_prefix(cache, child).last_device_node
        self.assertEqual(self._mamba_lru_mru_to_lru(cache), [used, nodes[1], nodes[0]])


class TestEvictionForAllocation(
    core.UnifiedRadixAllocationEvictionRealComponentsFixtures, CustomTestCase
):
    """States of a chain's inner nodes go first and alone; their KV stays."""

    _SHORTFALL = 1

    def test_one_state_is_enough(self) -> None:
        for sessions in core.session_radix_cache_test_values():
            cache, first, second, leaf = self._build_internal_chain(MAMBA, sessions)
            _, drains = self._evict_for_alloc_after_first_drain(cache, MAMBA)
            self.assertEqual(drains, 1)
            self.assertIsNone(fixtures.node_device_value(cache, first, MAMBA))
            for node in (second, leaf):
                self.assertIsNotNone(fixtures.node_device_value(cache, node, MAMBA))
            self.assertIsNotNone(fixtures.node_device_value(cache, first, ComponentType.FULL))
            cache.sanity_check()


class TestStreamingSession(insert_walk.StreamingSessionLockLifecycleFixtures, CustomTestCase):
    """A streaming session's second turn holds what its first one left."""

    def test_the_second_turn_continues_on_the_first_ones_record(self) -> None:
        cfg = CacheConfig(components=HYBRID)
        cache, allocator, pool = build_fixture(cfg)
        slot, req = self._later_turn(cache, allocator, pool)
        self.assertIsNotNone(slot)
        self.assertEqual(req.kv.kv_committed_len, 12)
