"""The shortlist of predicted reuse finds what goes first, whatever comes, changes and goes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from unittest import mock

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from numpy.typing import NDArray
from sglang_marconi.policy import prediction
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.prediction import PredictedReuse, kind_of
from sglang_marconi.policy.reuse import Kind
from support.grove import Grove

Floats = NDArray[np.float64]


class WatchedShortlist(prediction._Shortlist):
    """Tells when all candidates are scored."""

    def __init__(self, value: PredictedReuse, when_scored: Callable[[], None]) -> None:
        super().__init__(value)
        self._when_scored = when_scored

    def _score_all(self) -> None:
        super()._score_all()
        self._when_scored()


class ShortlistMachine(RuleBasedStateMachine):
    """Any candidates that come, change and go, against a dict of their scores."""

    @initialize(
        shortlist=st.sampled_from([3, prediction._SHORTLIST]),
        seed=st.integers(0, 9),
        uses=st.lists(st.tuples(st.sampled_from(Kind), st.floats(0.0, 300.0)), max_size=30),
    )
    def begin(self, shortlist: int, seed: int, uses: Sequence[tuple[Kind, float]]) -> None:
        patch = mock.patch.object(prediction, "_SHORTLIST", shortlist)
        patch.start()
        self.stop = patch.stop
        self.value = PredictedReuse()
        # Old candidates may then be worth more than new ones.
        for kind, age in uses * 10:
            self.value.model.waited(kind, 0.0, age)
            self.value.model.used(kind, age)
        self.value.model.estimate(0.0)
        self.chooser = random.Random(seed)
        self.list = WatchedShortlist(self.value, self.score_all)
        self.efficiency: dict[PrefixNode, float] = {}
        self.scores: dict[PrefixNode, float] = {}
        self.scored_at = 0.0
        self.handles = 0
        self.place_many(2 * shortlist)

    def teardown(self) -> None:
        if hasattr(self, "stop"):
            self.stop()

    def score(self, node: PrefixNode) -> float:
        age = max(self.value.now - node.last_use, 0.0)
        return self.efficiency[node] * self.value.model.rate(kind_of(node), age)

    def score_all(self) -> None:
        self.scores = {node: self.score(node) for node in self.efficiency}
        self.scored_at = self.value.now

    def place(self, node: PrefixNode, efficiency: float) -> None:
        self.efficiency[node] = efficiency
        self.scores[node] = self.score(node)
        self.list.put(node, node.last_use, efficiency)

    def some(self, pick: int) -> PrefixNode:
        return list(self.efficiency)[pick % len(self.efficiency)]

    @rule(count=st.integers(1, 20))
    def place_many(self, count: int) -> None:
        for _ in range(count):
            node = PrefixNode(self.handles, None, 10, self.value.now - self.chooser.randrange(100))
            self.handles += 1
            node.has_state = True
            node.branched = self.chooser.random() < 0.5
            node.hits = self.chooser.randrange(5)
            self.place(node, self.chooser.choice([1.0, 2.0, self.chooser.uniform(0.5, 5.0)]))

    @precondition(lambda self: self.efficiency)
    @rule(pick=st.integers(0, 2000))
    def use(self, pick: int) -> None:
        node = self.some(pick)
        node.last_use = self.value.now
        node.hits += 1
        self.place(node, self.efficiency[node])

    @precondition(lambda self: self.efficiency)
    @rule(pick=st.integers(0, 2000), factor=st.sampled_from([0.1, 1.0, 10.0]))
    def reprice(self, pick: int, factor: float) -> None:
        node = self.some(pick)
        self.place(node, self.efficiency[node] * factor)

    @precondition(lambda self: self.efficiency)
    @rule(pick=st.integers(0, 2000), again=st.booleans())
    def discard(self, pick: int, again: bool) -> None:
        node = self.some(pick)
        efficiency = self.take_out(node)
        if again:
            self.place(node, efficiency)

    def take_out(self, node: PrefixNode) -> float:
        self.list.discard(node)
        del self.scores[node]
        return self.efficiency.pop(node)

    @rule(ticks=st.sampled_from([1.0, 5.0, 20.0, 100.0]))
    def tick(self, ticks: float) -> None:
        self.value.now += ticks

    @precondition(lambda self: self.efficiency)
    @rule(evictions=st.integers(1, 20))
    def evict(self, evictions: int) -> None:
        for _ in range(min(evictions, len(self.efficiency))):
            self.check_first()
            self.take_out(self.list.first())
        assert len(self.list) == len(self.efficiency)

    @precondition(lambda self: self.efficiency)
    @rule(new=st.integers(1, 5))
    def outlive_the_shortlist(self, new: int) -> None:
        """All of it goes, while better ones have come since."""
        self.tick(100.0)
        self.check_first()
        for _ in range(new):
            self.place_many(1)
            self.reprice(-1, 10.0)
        self.evict(prediction._SHORTLIST + new + 1)

    @precondition(lambda self: self.efficiency)
    @rule()
    def check_first(self) -> None:
        first = self.list.first()
        assert self.scores[first] <= min(self.scores.values()) * (1 + 1e-9)
        # Scores are not much out of date.
        assert self.value.now < self.scored_at + max(64.0, len(self.efficiency) / 16)


TestShortlist = ShortlistMachine.TestCase
TestShortlist.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_of_equal_scores_the_one_used_longest_ago_goes_first() -> None:
    grove = Grove(PredictedReuse())
    for name in ("a", "b"):
        grove.insert(name, 10)
    grove.use("a")
    assert grove.evict_states() == ["b", "a"]


def test_so_it_does_where_few_of_many_are_on_the_list() -> None:
    value = PredictedReuse()
    uses = [0, 1, 2, 3, 4, 5, 3, 2, 1]
    nodes = [PrefixNode(number, None, 10, use / 16) for number, use in enumerate(uses)]
    with mock.patch.object(prediction, "_SHORTLIST", 3):
        shortlist = prediction._Shortlist(value)
        for node in nodes:
            shortlist.put(node, node.last_use, 1.0 if node.handle >= 6 else 10.0)
        value.now = 100.0
        for last in reversed(nodes[6:]):
            assert shortlist.first() is last
            shortlist.discard(last)
