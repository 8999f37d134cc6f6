"""Predicted reuse on small trees: what goes first."""

from __future__ import annotations

import random

import numpy as np
import pytest
from numpy.typing import NDArray
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.reuse import Kind, ReuseModel
from sglang_marconi.policy.utility import PaperUtility
from support.grove import Grove, SharedGrove

Floats = NDArray[np.float64]


class SmallCache(SharedGrove):
    """Prefixes side by side, with room for so many of them."""

    def __init__(self, valuation: Valuation, room: int) -> None:
        super().__init__(valuation)
        self.room = room
        self.evicted: list[str] = []

    def ask(self, name: str, tokens: int = 10) -> bool:
        """A request for a prefix, which is stored; whether it was there."""
        if name in self.nodes:
            self.use(name)
            return True
        # The root is not counted.
        while len(self.nodes) > self.room:
            victim = self.next()
            assert victim is not None
            self.evicted.append(victim)
            self.remove(victim)
        self.insert(name, tokens)
        return False

    def cycle(self, length: int, rounds: int) -> float:
        """One prefix after another, again and again; the share that was there."""
        names = [f"prefix {number}" for number in range(length)]
        return sum(self.ask(name) for _ in range(rounds) for name in names) / (rounds * length)


def wait(grove: Grove | SharedGrove, ticks: int) -> None:
    """Nothing but requests that share nothing, and leave at once."""
    for _ in range(ticks):
        grove.insert("passing", 10)
        grove.remove("passing")


# ---- what is used again stays ----


def test_what_is_never_used_again_goes_before_what_is() -> None:
    """As soon as it is clearly older than what is used again ever gets."""
    cache = SmallCache(PredictedReuse(), room=70)
    for number in range(1000):
        cache.ask(f"lasting {number % 20}")
        cache.ask(f"once {number}")
    assert len(cache.evicted) > 900
    assert all(name.startswith("once") for name in cache.evicted)


def test_states_that_conversations_grew_past_go_before_those_at_their_ends() -> None:
    grove = Grove(PredictedReuse())
    ends = {number: "" for number in range(8)}
    for turn in range(6):
        for number, above in ends.items():
            if above:
                grove.use(above)
            ends[number] = f"{number}, turn {turn}"
            grove.insert(ends[number], 10, below=above)
    order = grove.evict_states()
    assert len(order) == 48
    assert set(order[-8:]) == set(ends.values())


def test_branch_points_that_are_used_outlast_those_that_are_not() -> None:
    grove = Grove(PredictedReuse())
    names = [f"{use} {number}" for number in range(4) for use in ("used", "unused")]
    for name in names:
        grove.insert(name, 10)
        for end in ("a", "b"):
            grove.insert(f"{name}, {end}", 10, below=name)
    for number in range(200):
        grove.use(f"used {number % 4}")
    # As recent as the others.
    wait(grove, 100)
    order = [name for name in grove.evict_states() if name in names]
    assert all(name.startswith("unused") for name in order[:4])


def test_what_saves_more_for_its_bytes_outlasts_what_is_as_recent() -> None:
    grove = Grove(PredictedReuse())
    for name, tokens in (("long", 1000), ("middle", 100), ("short", 10)):
        grove.insert(name, tokens)
    assert grove.evict_states() == ["short", "middle", "long"]


# ---- what is learned from ----


class Witness(ReuseModel):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.times = dict.fromkeys(Kind, 0.0)
        self.ages: list[tuple[Kind, int]] = []

    def used(self, kind: int, age: float) -> None:
        self.ages.append((Kind(kind), round(age)))

    def waited(self, kind: int, start: float, end: float) -> None:
        assert 0 <= start <= end
        self.times[Kind(kind)] += end - start

    def all_waited(self, kinds: Floats, starts: Floats, ends: Floats) -> None:
        for row in zip(kinds, starts, ends, strict=True):
            self.waited(*row)


def test_it_is_told_of_all_uses_and_of_all_time_that_states_are_held() -> None:
    valuation = PredictedReuse()
    cache = SmallCache(valuation, room=15)
    witness = valuation.model = Witness()
    chooser = random.Random(0)
    held, ages = 0, []
    # When each one was stored, and used.
    stored: dict[str, int] = {}
    used: dict[str, int] = {}
    for now in range(700):
        name = f"{chooser.randrange(25)}"
        if cache.ask(name):
            ages.append(now - used[name])
        else:
            # They went in the tick before.
            held += sum(now - 1 - stored.pop(victim) for victim in cache.evicted)
            cache.evicted.clear()
            stored[name] = now
        used[name] = now
    held += sum(699 - since for since in stored.values())
    for name in stored:
        cache.remove(name)
    assert [age for _, age in witness.ages] == ages
    assert sum(witness.times.values()) == pytest.approx(held, abs=0.1)


def test_time_and_uses_count_for_the_kind_of_node() -> None:
    valuation = PredictedReuse()
    grove = Grove(valuation)
    witness = valuation.model = Witness()
    grove.insert("turn 1", 10)
    wait(grove, 5)
    grove.use("turn 1")
    grove.insert("turn 2", 10, below="turn 1")
    wait(grove, 20)
    grove.use("turn 1")
    grove.insert("other turn 2", 10, below="turn 1")
    wait(grove, 40)
    grove.use("turn 1")
    for name in ("turn 2", "other turn 2", "turn 1"):
        grove.remove(name)
    assert witness.ages == [(Kind.END, 6), (Kind.OUTGROWN, 22), (Kind.BRANCH_TWICE, 42)]
    assert witness.times[Kind.OUTGROWN] == pytest.approx(22, abs=0.1)


# ---- loops ----


def test_of_a_loop_that_outgrows_memory_a_part_is_kept() -> None:
    room = 20
    rates = {}
    for valuation in (PaperUtility(0.0), PredictedReuse()):
        cache = SmallCache(valuation, room)
        assert cache.cycle(15, rounds=10) > 0.8
        cache.cycle(2 * room, rounds=5)
        rates[type(valuation)] = cache.cycle(2 * room, rounds=20)
    assert rates[PaperUtility] == 0
    assert rates[PredictedReuse] > 0.3


def test_of_a_loop_that_never_fitted_a_part_is_kept() -> None:
    """Half of it has room; a tenth of the rounds is enough to find out."""
    assert SmallCache(PredictedReuse(), room=20).cycle(40, rounds=50) > 0.4
    assert SmallCache(PredictedReuse(), room=20).cycle(40, rounds=5) > 0.25


@pytest.mark.parametrize(("asked_twice_one_in", "explored"), [(1000, True), (10, False)])
def test_ends_are_explored_as_long_as_hardly_any_is_used(
    asked_twice_one_in: int, explored: bool
) -> None:
    value = PredictedReuse()
    cache = SmallCache(value, room=20)
    for number in range(1, 400):
        cache.ask(f"end {number}")
        if number % asked_twice_one_in == 0:
            wait(cache, 2)
            assert cache.ask(f"end {number}")
    nodes = cache.nodes.values()
    assert any(value.last_use(node) > node.last_use for node in nodes) == explored


# ---- what has changed is forgotten ----


def two_branch_points() -> Grove:
    """One of them is hot: it is used in every second tick; the other one in every fiftieth."""
    grove = Grove(PredictedReuse())
    for name in ("hot", "lukewarm"):
        grove.insert(name, 10)
        for end in ("a", "b"):
            grove.insert(f"{name}, {end}", 10, below=name)
            grove.policy.lock_state(grove[f"{name}, {end}"])
    for _ in range(20):
        for _ in range(24):
            grove.use("hot")
            wait(grove, 1)
        grove.use("lukewarm")
    return grove


def test_a_hot_prefix_outlasts_a_lukewarm_one() -> None:
    grove = two_branch_points()
    for _ in range(12):
        grove.use("hot")
        wait(grove, 1)
    assert grove.evict_states() == ["lukewarm", "hot"]


def test_a_hot_prefix_gone_cold_leaves_before_a_lukewarm_one() -> None:
    grove = two_branch_points()
    for _ in range(8):
        wait(grove, 49)
        grove.use("lukewarm")
    wait(grove, 25)
    assert grove.evict_states() == ["hot", "lukewarm"]


@pytest.mark.parametrize("before", [15, 40])
def test_after_a_loop_other_traffic_is_kept(before: int) -> None:
    cache = SmallCache(PredictedReuse(), room=20)
    cache.cycle(before, rounds=50)
    names = [f"new {number}" for number in range(10)]
    for _ in range(10):
        for name in names:
            cache.ask(name)
    assert all(cache.ask(name) for _ in range(20) for name in names)


def test_clear_forgets_what_was_learned() -> None:
    def victims(grove: Grove) -> list[str]:
        ends = {number: "" for number in range(3)}
        for turn in range(3):
            for number, above in ends.items():
                ends[number] = f"{number}, turn {turn}"
                grove.insert(ends[number], 10 + number, below=above)
        return grove.evict_states()

    fresh, cleared = Grove(PredictedReuse()), two_branch_points()
    cleared.policy.clear()
    cleared.nodes = {"": cleared.policy.root}
    assert cleared.next_state() is None
    assert victims(cleared) == victims(fresh)
    ages = (0.0, 10.0, 100.0)
    for kind in Kind:
        for age in ages:
            models = (grove.policy.valuation.model for grove in (fresh, cleared))
            assert len({model.rate(kind, age) for model in models}) == 1


# ---- before what is predicted ----


def test_leaves_where_nothing_can_resume_go_first_the_oldest_before_the_others() -> None:
    grove = Grove(PredictedReuse())
    grove.insert("short", 1)
    for name in ("a", "b", "c"):
        grove.insert(name, 1000, state=False)
    grove.insert("loses its state", 1000)
    grove.insert("gets a state", 500, state=False)
    grove.use("b")
    grove.policy.drop_state(grove["loses its state"])
    grove.policy.store_state(grove["gets a state"])
    order = ["a", "c", "loses its state", "b", "short", "gets a state"]
    assert grove.evict_leaves() == order


def test_in_one_budget_too() -> None:
    grove = SharedGrove(PredictedReuse())
    grove.insert("turn 1", 10)
    grove.insert("turn 2", 10, below="turn 1")
    grove.insert("bare", 1000, state=False)
    assert grove.next() == "bare"
    grove.remove("bare")
    assert grove.evict() == ["turn 1", "turn 2", "turn 1"]


def test_what_sessions_refer_to_goes_last() -> None:
    grove = Grove(PredictedReuse())
    grove.insert("session's, bare", 1, state=False)
    grove.insert("session's", 1)
    grove.insert("long", 1000)
    grove.insert("bare", 1000, state=False)
    grove.policy.refer_to_kv(grove["session's, bare"], True)
    grove.policy.refer_to_kv(grove["session's"], True)
    grove.policy.refer_to_state(grove["session's"], True)
    assert grove.next_state() == "long"
    assert grove.next_leaf() == "bare"
    grove.policy.refer_to_state(grove["session's"], False)
    assert grove.next_state() == "session's"
    assert grove.evict_leaves() == ["bare", "long", "session's, bare", "session's"]


# ---- the same events, the same victims ----


@pytest.mark.parametrize("seed", range(3))
def test_the_same_requests_evict_the_same_prefixes(seed: int) -> None:
    def evicted(_elsewhere: list[object]) -> list[str]:
        chooser = random.Random(seed)
        cache = SmallCache(PredictedReuse(), room=300)
        for number in range(2500):
            if chooser.random() < 0.5:
                cache.ask(f"again {chooser.randrange(200)}", 20)
            else:
                cache.ask(f"once {number}", chooser.choice([10, 20, 30]))
        return cache.evicted

    first = evicted([])
    assert len(first) > 500
    # Other objects move the nodes in memory.
    assert evicted([object() for _ in range(999)]) == first
