"""The same requests evict the same prefixes: on every rank, in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product

import pytest
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.events import Observer
from sglang_marconi.observe.held import Held, Memory
from sglang_marconi.observe.inspection.snapshot import Inspector
from sglang_marconi.observe.routers import CheckpointEvents
from support.tree_serving import PAGES_OF_FOUR, SINGLE_TOKENS
from support.tree_work import VALUATIONS, evictions, new_serving, work
from support.watched_tree import Evicted

_SCENARIOS = tuple(product((SINGLE_TOKENS, PAGES_OF_FOUR), VALUATIONS))
_HASHED = "what hashes differ by"


def assert_enough(evicted: list[Evicted]) -> None:
    """There were decisions of both kinds to compare."""
    assert sum(what.leaf for what in evicted) > 40
    assert sum(not what.leaf for what in evicted) > 20


@pytest.mark.parametrize("valuation", VALUATIONS)
@pytest.mark.parametrize("cfg", [SINGLE_TOKENS, PAGES_OF_FOUR], ids=lambda cfg: cfg.label)
def test_another_trees_work_changes_nothing(cfg: CacheConfig, valuation: str) -> None:
    """It shifts node ids, SGLang's clock and where objects lie in memory."""
    for seed in range(2):
        alone = evictions(cfg, valuation, seed)
        assert_enough(alone)
        serving, another = new_serving(cfg, valuation), new_serving(SINGLE_TOKENS, "alpha 1")
        elsewhere = work(another, seed + 100)
        for step, _ in enumerate(work(serving, seed)):
            for _ in range(step % 3):
                next(elsewhere, None)
        assert serving.tree.evicted == alone


@pytest.mark.parametrize("valuation", VALUATIONS)
def test_who_watches_changes_nothing(valuation: str) -> None:
    """Of several ranks, one is observed, asked for the page and checked."""
    unwatched = new_serving(SINGLE_TOKENS, valuation)
    for _ in work(unwatched, seed=0):
        pass
    alone = unwatched.tree.evicted
    observer = Observer()
    serving = new_serving(SINGLE_TOKENS, valuation, observer)
    tree = serving.cache.tree_core
    held = Held(observer, tree.policy.forms)
    inspector = Inspector(observer, tree, held, Memory({"device": 1}, 1))
    CheckpointEvents(observer, tree, tree.policy.forms)
    for _ in work(serving, seed=0):
        inspector.state()
        serving.cache.sanity_check()
    assert serving.tree.evicted == alone


def test_two_processes_decide_alike() -> None:
    """This one, and one in which hashes, and so the order of a set, are others."""
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        here = [evictions(cfg, valuation, seed=0) for cfg, valuation in _SCENARIOS]
        output = other.communicate()[0]
    assert other.returncode == 0
    there = json.loads(output.splitlines()[-1])
    assert there["hash"] != hash(_HASHED)
    # Tuples come back as lists.
    assert there["evicted"] == json.loads(json.dumps(here))
    for evicted in here:
        assert_enough(evicted)


if __name__ == "__main__":
    found = [evictions(cfg, valuation, seed=0) for cfg, valuation in _SCENARIOS]
    print(json.dumps({"hash": hash(_HASHED), "evicted": found}))
