"""Requests and evictions at random, the same ones for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang_marconi.cost import preset
from sglang_marconi.events import Observer
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.utility import PaperUtility

from support.tree_serving import Flight, Serving, with_free_passes
from support.watched_tree import Evicted

VALUATIONS: dict[str, Callable[[], Valuation]] = {
    "alpha 0": lambda: PaperUtility(0.0),
    "alpha 1": lambda: PaperUtility(1.0),
    "predicted reuse": PredictedReuse,
}
_STEPS = 150


def new_serving(cfg: CacheConfig, valuation: str, observer: Observer | None = None) -> Serving:
    policy = EvictionPolicy(with_free_passes(preset("paper-7b")), VALUATIONS[valuation]())
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
