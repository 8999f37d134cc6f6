"""Which new checkpoints are stored where others have to go for them, and what new ones are."""

from __future__ import annotations

from sglang_marconi.policy.prediction import PredictedReuse, kind_of
from sglang_marconi.policy.reuse import Kind
from sglang_marconi.policy.utility import PaperUtility
from support.grove import Grove


def with_a_hot_branch(grove: Grove, tokens: int) -> Grove:
    """All that could go is a branch point of so many tokens, used in each tick."""
    grove.insert("hot", tokens)
    for end in ("a", "b"):
        grove.insert(f"hot, {end}", 10, below="hot", state=False)
    for _ in range(100):
        grove.use("hot")
    return grove


def test_what_is_worth_much_less_than_all_others_is_refused() -> None:
    grove = with_a_hot_branch(Grove(PredictedReuse()), tokens=1000)
    assert not grove.policy.admits_inside(0, 2)


def test_what_saves_more_is_admitted() -> None:
    grove = with_a_hot_branch(Grove(PredictedReuse()), tokens=2)
    assert grove.policy.admits_inside(0, 1000)


def test_only_what_is_saved_beyond_the_state_above_counts() -> None:
    grove = with_a_hot_branch(Grove(PredictedReuse()), tokens=10)
    assert grove.policy.admits_inside(0, 10_000)
    assert not grove.policy.admits_inside(10_000 - 1, 10_000)


def test_where_nothing_has_to_go_all_is_admitted() -> None:
    grove = Grove(PredictedReuse())
    assert grove.policy.admits_inside(0, 1)


def test_the_paper_admits_all() -> None:
    grove = with_a_hot_branch(Grove(PaperUtility(1.0)), tokens=1000)
    assert grove.policy.admits_inside(0, 2)


# ---- kinds ----


def kinds(grove: Grove, *names: str) -> list[Kind]:
    return [kind_of(grove[name]) for name in names]


def test_the_end_of_a_request_with_an_unused_branch_point_of_its_own() -> None:
    grove = Grove(PredictedReuse())
    grove.insert("first", 100)
    grove.split("branch", 50, above="first")
    grove.insert("second", 10, below="branch", state=False)
    grove.policy.store_state(grove["branch"])
    grove.policy.store_state(grove["second"])
    assert kinds(grove, "branch", "second", "first") == [Kind.BRANCH_NEW, Kind.OFFSHOOT, Kind.END]
    # It goes on: still nobody has used the branch point.
    grove.insert("second, on", 10, below="second")
    assert kinds(grove, "second", "second, on") == [Kind.OUTGROWN, Kind.OFFSHOOT]


def test_the_end_of_a_request_below_a_branch_point_that_was_used_before() -> None:
    grove = Grove(PredictedReuse())
    grove.insert("branch", 50)
    for end in ("a", "b"):
        grove.insert(end, 10, below="branch")
    grove.use("branch")
    grove.insert("c", 10, below="branch")
    assert kinds(grove, "c") == [Kind.END]


def test_branch_points_by_how_often_they_were_used() -> None:
    grove = Grove(PredictedReuse())
    grove.insert("branch", 50)
    for end in ("a", "b"):
        grove.insert(end, 10, below="branch")
    seen = []
    for _ in range(6):
        seen += kinds(grove, "branch")
        grove.use("branch")
    assert seen == [
        *(Kind.BRANCH_NEW, Kind.BRANCH_ONCE),
        *(Kind.BRANCH_TWICE, Kind.BRANCH_TWICE),
        *(Kind.BRANCH_OFTEN, Kind.BRANCH_OFTEN),
    ]


def test_a_use_by_the_request_that_stored_it_does_not_count() -> None:
    grove = Grove(PredictedReuse())
    grove.insert("branch", 50)
    for end in ("a", "b"):
        grove.insert(end, 10, below="branch")
    grove.policy.drop_state(grove["branch"])
    grove.policy.store_state(grove["branch"])
    grove.policy.use(grove["branch"])
    assert kinds(grove, "branch") == [Kind.BRANCH_NEW]
    grove.policy.tick()
    grove.policy.use(grove["branch"])
    assert kinds(grove, "branch") == [Kind.BRANCH_ONCE]
