"""The same requests evict the same prefixes: on every rank, in every process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product

import pytest
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cost import preset
from sglang_marconi.events import Observer
from sglang_marconi.observe.held import Held, Memory
from sglang_marconi.observe.inspection.snapshot import Inspector
from sglang_marconi.observe.routers import CheckpointEvents
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.utility import PaperUtility
from tree_reference import PAGES_OF_FOUR, SINGLE_TOKENS, Evicted, Flight, Serving, with_free_passes

_VALUATIONS: dict[str, Callable[[], Valuation]] = {
    "alpha 0": lambda: PaperUtility(0.0),
    "alpha 1": lambda: PaperUtility(1.0),
    "predicted reuse": PredictedReuse,
}
_SCENARIOS = tuple(product((SINGLE_TOKENS, PAGES_OF_FOUR), _VALUATIONS))
_STEPS = 150


def new_serving(cfg: CacheConfig, valuation: str, observer: Observer | None = None) -> Serving:
    policy = EvictionPolicy(with_free_passes(preset("paper-7b")), _VALUATIONS[valuation]())
    return Serving(cfg, policy, observer)


def work(serving: Serving, seed: int) -> Iterator[None]:
    """Requests that share prefixes, some of them at once, and evictions between them."""
    chooser = random.Random(seed)
    page = serving.cfg.page_size
    seen: list[list[int]] = []
    for _ in range(_STEPS):
        prompt = chooser.choice(seen)[: page * chooser.randrange(1, 10)] if seen else []
        for _ in range(chooser.randrange(1, 5)):
            prompt = [*prompt, *[1] * (page - 1), chooser.randrange(1, 4)]
        flight = serving.begin(prompt[: 10 * page])
        if flight is not None and flight.branch is not None:
            serving.chunk(flight, flight.branch)
        if flight is not None and chooser.random() < 0.8:
            serving.chunk(flight, len(flight.prompt))
        while serving.flights and chooser.random() < 0.7:
            seen.append(end(serving, chooser))
        if chooser.random() < 0.2:
            serving.evict(tokens=chooser.randrange(3 * page), states=chooser.randrange(3))
        yield


def end(serving: Serving, chooser: random.Random) -> list[int]:
    """One of the requests under way replies and ends; its tokens."""
    flight: Flight = chooser.choice(serving.flights)
    serving.decode(flight, chooser.choices([1, 2], k=chooser.randrange(6)))
    if chooser.random() < 0.1:
        serving.abort(flight)
    else:
        serving.finish(flight)
    return flight.tokens


def evictions(cfg: CacheConfig, valuation: str, seed: int) -> list[Evicted]:
    serving = new_serving(cfg, valuation)
    for step, _ in enumerate(work(serving, seed)):
        if step % 10 == 0:
            serving.cache.sanity_check()
    return serving.tree.evicted


def assert_enough(evicted: list[Evicted]) -> None:
    """There were decisions of both kinds to compare."""
    assert sum(what.leaf for what in evicted) > 40
    assert sum(not what.leaf for what in evicted) > 20


@pytest.mark.parametrize("valuation", _VALUATIONS)
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


@pytest.mark.parametrize("valuation", _VALUATIONS)
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
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    first, second = (json.loads(output.splitlines()[-1]) for output in outputs)
    assert first == second
    assert len(first) == len(_SCENARIOS)
    for evicted in first:
        assert_enough([Evicted(*what) for what in evicted])


if __name__ == "__main__":
    print(json.dumps([evictions(cfg, valuation, seed=0) for cfg, valuation in _SCENARIOS]))
