"""``--enable-session-radix-cache``: what an open session refers to goes last."""

from __future__ import annotations

from typing import Any

from sglang.srt.mem_cache.base_prefix_cache import EvictParams
from sglang.srt.mem_cache.unified_cache.components import ComponentType
from sglang.test.kits.unified_radix_cache import core
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang.test.kits.unified_radix_cache.fixtures import build_fixture, match_prefix

HYBRID = (ComponentType.FULL, ComponentType.MAMBA)


class Sessions:
    """A cache of three sequences; a session refers to the first, the oldest."""

    def __init__(self) -> None:
        self.kit = core.UnifiedRadixCacheCoreFixtures()
        self.kit.cfg = CacheConfig(components=HYBRID)
        self.cache: Any
        self.cache, self.allocator, self.pool = build_fixture(
            self.kit.cfg, enable_session_radix_cache=True
        )
        self.sequences = [[n, n + 1, n + 2] for n in (10, 20, 30)]
        for tokens in self.sequences:
            self.kit._insert(self.cache, self.allocator, self.pool, tokens)
        node = match_prefix(self.cache, self.sequences[0]).last_device_node
        leaf = self.cache.tree_core.node_by_id(node)
        for component in self.cache.components.values():
            component.register_session_leaf("open", leaf)

    def close(self) -> None:
        for component in self.cache.components.values():
            component.release_session("open")
        # A match would make it the newest again; the two others are used after it.
        for tokens in self.sequences[1:]:
            match_prefix(self.cache, tokens)

    def resumable(self) -> list[bool]:
        return [match_prefix(self.cache, s).device_prefix_len == len(s) for s in self.sequences]


def test_a_state_an_open_session_refers_to_goes_last() -> None:
    held = Sessions()
    held.cache.evict(EvictParams(num_tokens=0, mamba_num=2))
    held.cache.sanity_check()
    assert held.resumable() == [True, False, False]
    held.cache.evict(EvictParams(num_tokens=0, mamba_num=1))
    assert held.resumable() == [False, False, False]


def test_kv_an_open_session_refers_to_goes_last() -> None:
    held = Sessions()
    held.cache.evict(EvictParams(num_tokens=6))
    held.cache.sanity_check()
    assert held.resumable() == [True, False, False]
    held.cache.evict(EvictParams(num_tokens=3))
    assert held.resumable() == [False, False, False]


def test_after_its_end_a_session_protects_nothing() -> None:
    for short in (EvictParams(num_tokens=0, mamba_num=1), EvictParams(num_tokens=3)):
        held = Sessions()
        held.close()
        held.cache.evict(short)
        held.cache.sanity_check()
        assert held.resumable() == [False, True, True]
