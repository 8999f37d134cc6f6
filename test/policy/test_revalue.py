"""A policy that another one takes over from, with the tree as it is."""

from __future__ import annotations

from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.utility import PaperUtility
from support.grove import Grove


def grown(valuation: PaperUtility | PredictedReuse) -> Grove:
    """The first prefix is worth most, the second was used last."""
    grove = Grove(valuation)
    grove.insert("long", 1000)
    grove.insert("short", 10)
    grove.insert("branch", 10, below="long")
    grove.policy.lock_state(grove["branch"])
    return grove


def test_another_policy_takes_over_the_tree_as_it_is() -> None:
    grove = grown(PaperUtility(0.0))
    fresh = grown(PaperUtility(2.0))
    grove.policy.revalue(PaperUtility(2.0))
    assert grove.evict_states() == fresh.evict_states()


def test_back_and_forth() -> None:
    grove = grown(PaperUtility(0.0))
    expected = grown(PaperUtility(0.0)).evict_states()
    predicted = PredictedReuse()
    grove.policy.revalue(predicted)
    grove.use("short")
    assert grove.next_state() is not None
    grove.policy.revalue(PaperUtility(0.0))
    assert sorted(grove.evict_states()) == sorted(expected)
    grove.policy.unlock_state(grove["branch"])
    assert grove.next_state() == "branch"
