"""How candidates are judged, to be shown: in the order in which they go, and without effect."""

from __future__ import annotations

import pytest
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.utility import PaperUtility
from support.grove import TOKENS, NamedTree

BOTH = pytest.mark.parametrize("valuation", [PaperUtility(0.7), PredictedReuse()], ids=type)


def grown(valuation: Valuation) -> NamedTree[EvictionPolicy]:
    tree = NamedTree(EvictionPolicy(TOKENS, valuation))
    for at, tokens in enumerate((50, 400, 10, 90, 1000, 30, 700)):
        tree.insert(f"leaf {at}", tokens, state=at != 3)
    tree.policy.use(tree["leaf 0"])
    return tree


@BOTH
def test_the_lowest_score_goes_first(valuation: Valuation) -> None:
    tree = grown(valuation)
    policy = tree.policy
    while (victim := policy.least_useful_state()) is not None:
        scores = {
            node: standing.score
            for node in tree.nodes.values()
            if (standing := policy.standing_of_state(node)) is not None
        }
        assert scores[victim] == pytest.approx(min(scores.values()))
        policy.drop_state(victim)
    assert policy.standing_of_state(tree["leaf 0"]) is None


@BOTH
def test_what_nothing_resumes_at_is_a_group_of_its_own(valuation: Valuation) -> None:
    tree = grown(valuation)
    first = tree.policy.least_useful_leaf()
    assert first is tree["leaf 3"]
    standing = tree.policy.standing_of_leaf(first)
    assert standing is not None and standing.group == "nothing resumes there"
    other = tree.policy.standing_of_leaf(tree["leaf 1"])
    assert other is not None and other.group.startswith("checkpoints")


def test_age_counts_insertions() -> None:
    tree = grown(PaperUtility(0.0))
    assert tree.policy.ticks == 7
    assert tree.policy.age(tree["leaf 1"]) == 5
    assert tree.policy.age(tree["leaf 0"]) == 0
