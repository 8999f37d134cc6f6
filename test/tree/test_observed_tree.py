"""What is observed of SGLang's tree is what the tree holds: the page, and events for routers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from sglang.srt.disaggregation.kv_events import AllBlocksCleared, BlockRemoved, BlockStored
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cost import preset
from sglang_marconi.events import Added, Observer, Prompted, Reason, Stored
from sglang_marconi.observe.held import Held, Memory
from sglang_marconi.observe.inspection.outline import own_tokens
from sglang_marconi.observe.inspection.snapshot import SHOWN, Inspector
from sglang_marconi.observe.routers import ON_DEVICE, CheckpointEvents, checkpoint_hash
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.prediction import PredictedReuse
from support.tree_serving import PAGES_OF_FOUR, SINGLE_TOKENS, Serving, with_free_passes
from support.tree_work import work
from support.watched_tree import MAMBA

BOTH = pytest.mark.parametrize("cfg", [SINGLE_TOKENS, PAGES_OF_FOUR], ids=lambda cfg: cfg.label)


class Observed:
    """A cache under work, inspected, with its events for routers."""

    def __init__(self, cfg: CacheConfig) -> None:
        observer = Observer()
        policy = EvictionPolicy(with_free_passes(preset("paper-7b")), PredictedReuse())
        self.serving = Serving(cfg, policy, observer)
        self.tree = self.serving.cache.tree_core
        self.held = Held(observer, policy.forms)
        CheckpointEvents(observer, self.tree, policy.forms)
        self.inspector = Inspector(observer, self.tree, self.held, Memory({"device": 1}, 1))

    def nodes(self) -> list[Any]:
        waiting, found = [self.tree.root_node], []
        while waiting:
            found.append(waiting.pop())
            waiting += found[-1].children.values()
        return found


@BOTH
def test_the_page_shows_the_tree(cfg: CacheConfig) -> None:
    observed = Observed(cfg)
    for step, _ in enumerate(work(observed.serving, seed=5)):
        if step % 7:
            continue
        state = observed.inspector.state()
        drawn = sorted(
            (node.start + node.tokens, node.tokens, node.form is not None) for node in state.tree
        )
        tree = observed.tree
        assert drawn == sorted(
            (
                len(tree.tokens(node)),
                len(node.key) if node is not tree.root_node else 0,
                node.component_data[MAMBA].value is not None,
            )
            for node in observed.nodes()
        )
        assert state.nodes == len(state.tree) - 1
        assert state.tokens == sum(node.tokens for node in state.tree)
        assert state.checkpoints == observed.held.counts[0]
        # All is drawn, so nothing is summed up.
        assert {(node.nodes, node.hidden_tokens, node.checkpoints) for node in state.tree} == {
            (0, 0, 0)
        }
        running = any(not flight.req.finished() for flight in observed.serving.flights)
        assert running or not any(node.locked for node in state.tree)
    assert len(state.evictions) > 20
    assert {eviction.what for eviction in state.evictions} == {"leaf", "state"}


def test_names_of_prefixes() -> None:
    """Equal ones where prefixes are, whatever the tree is cut into; none for two prefixes."""
    observed = Observed(SINGLE_TOKENS)
    names: dict[tuple[int, ...], str] = {}
    for _ in work(observed.serving, seed=6):
        prefixes = {
            observed.inspector._identities.name(observed.tree.prefix(node)): tuple(
                observed.tree.tokens(node)
            )
            for node in observed.nodes()
        }
        assert len(prefixes) == len(observed.nodes())
        for name, tokens in prefixes.items():
            assert names.setdefault(tokens, name) == name
    assert len(names) > 100
    assert len(set(names.values())) == len(names)


def test_an_answer_is_kept_for_a_moment() -> None:
    observed = Observed(SINGLE_TOKENS)
    now = [0.0]
    observed.inspector._clock = lambda: now[0]
    first = observed.inspector.snapshot()
    observed.serving.put([1, 2, 3], state=True)
    now[0] = 0.4
    assert observed.inspector.snapshot() == first
    now[0] = 0.6
    assert json.loads(observed.inspector.snapshot())["tokens"] == 3


def test_ten_thousand_prefixes_take_the_scheduler_milliseconds() -> None:
    """Under the root, or as deep as conversations are; what is not drawn is summed up."""
    observed = Observed(SINGLE_TOKENS)
    policy, observer = observed.tree.policy, observed.tree.observer
    # What they say does not matter, and SGLang's pools need not hold it.
    observed.inspector._identities.name = lambda prefix: str(prefix.handle)  # type: ignore[method-assign]
    for handle in range(1000, 11_000):
        policy.tick()
        parent = policy.root
        if handle % 4:
            parent = next(reversed(parent.children.values()))
        for _ in range(handle % 4 - 1):
            parent = next(reversed(parent.children.values()))
        node = policy.add(parent, handle, parent.depth + 10 + handle % 90)
        observer.emit(Added(node))
        policy.store_state(node)
        observer.emit(Stored(node, Reason.END))
    policy.least_useful_state()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        state = observed.inspector.state()
        times.append(time.perf_counter() - start)
    print(f"snapshots of 10,000 prefixes: {[f'{1000 * each:.1f} ms' for each in times]}")
    assert min(times) < 0.02
    assert len(state.tree) == SHOWN + 1
    root = policy.root
    assert state.tokens == sum(node.tokens + node.hidden_tokens for node in state.tree)
    assert state.nodes == sum(1 + node.nodes for node in state.tree) - 1 == 10_000
    assert len(root.children) == 2500 and own_tokens(root) == 0


def test_the_hit_rate_over_time() -> None:
    observed = Observed(SINGLE_TOKENS)
    now = [1000.0]
    observed.inspector._journal._clock = lambda: now[0]
    emit = observed.tree.observer.emit
    emit(Prompted(tokens=10, shared=6, hit=4, resumed=None))
    now[0] = 1009.0
    emit(Prompted(tokens=10, shared=0, hit=0, resumed=None))
    now[0] = 1031.0
    emit(Prompted(tokens=5, shared=5, hit=5, resumed=None))
    intervals = observed.inspector.state().intervals
    assert [
        (each.time, each.prompt_tokens, each.hit_tokens, each.recomputed_tokens, each.requests)
        for each in intervals
    ] == [(1000.0, 20, 4, 2, 2), (1030.0, 5, 5, 0, 1)]


# ---- events for routers ----


class Subscriber:
    """Follows events: blocks and checkpoints, by their hash."""

    def __init__(self) -> None:
        self.blocks: dict[int, tuple[int | None, tuple[int, ...]]] = {}
        self.checkpoints: dict[int, int] = {}

    def take(self, event: Any) -> None:
        if isinstance(event, AllBlocksCleared):
            self.blocks.clear()
            self.checkpoints.clear()
        elif event.medium == ON_DEVICE and isinstance(event, BlockStored):
            (checkpoint,) = event.block_hashes
            assert event.token_ids == [] and event.parent_block_hash in self.blocks
            assert checkpoint == checkpoint_hash(event.parent_block_hash)
            assert checkpoint not in self.checkpoints
            self.checkpoints[checkpoint] = event.parent_block_hash
        elif isinstance(event, BlockStored):
            parent, size = event.parent_block_hash, event.block_size
            for at, block in enumerate(event.block_hashes):
                tokens = tuple(event.token_ids[at * size : (at + 1) * size])
                self.blocks[block] = (parent, tokens)
                parent = block
        elif event.medium == ON_DEVICE:
            assert isinstance(event, BlockRemoved)
            for checkpoint in event.block_hashes:
                del self.checkpoints[checkpoint]
        else:
            for block in event.block_hashes:
                del self.blocks[block]

    def prefix(self, block: int | None) -> tuple[int, ...]:
        if block is None:
            return ()
        parent, tokens = self.blocks[block]
        return (*self.prefix(parent), *tokens)


@BOTH
def test_a_router_knows_where_requests_can_resume(cfg: CacheConfig) -> None:
    observed, subscriber = Observed(cfg), Subscriber()
    most = 0
    for _ in work(observed.serving, seed=7):
        for event in observed.serving.cache.take_events():
            subscriber.take(event)
        tree = observed.tree
        expected = sorted(
            tree.tokens(node)
            for node in observed.nodes()
            if node.component_data[MAMBA].value is not None
        )
        assert sorted(map(subscriber.prefix, subscriber.checkpoints.values())) == expected
        most = max(most, len(expected))
    assert most > 4
    observed.serving.flush()
    for event in observed.serving.cache.take_events():
        subscriber.take(event)
    assert not subscriber.checkpoints and not subscriber.blocks
