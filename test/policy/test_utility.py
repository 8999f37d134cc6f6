"""The paper's utility on small trees: which kind of node goes first, and which of a kind."""

from __future__ import annotations

from sglang_marconi.cost import preset
from sglang_marconi.policy.utility import TIERS, PaperUtility
from support.grove import Grove, SharedGrove

# ---- states ----


def test_a_state_that_its_conversation_outgrew_competes_with_the_others() -> None:
    grove = Grove()
    grove.insert("lone", 10)
    grove.insert("turn 1", 10)
    grove.insert("turn 2", 10, below="turn 1")
    assert grove.evict_states() == ["lone", "turn 1", "turn 2"]


def test_storing_a_state_again_is_a_use() -> None:
    grove = Grove()
    grove.insert("lone", 10)
    grove.insert("turn 1", 10)
    grove.insert("turn 2", 10, below="turn 1")
    grove.policy.drop_state(grove["turn 1"])
    grove.policy.store_state(grove["turn 1"])
    assert grove.evict_states() == ["lone", "turn 2", "turn 1"]


def test_branch_points_go_last() -> None:
    grove = Grove()
    grove.insert("shared", 10)
    grove.insert("a", 10, below="shared")
    grove.insert("b", 10, below="shared")
    grove.insert("lone", 10)
    assert grove.evict_states() == ["a", "b", "lone", "shared"]


def test_a_branch_point_with_one_child_left_goes_with_the_others() -> None:
    grove = Grove()
    grove.insert("lone", 10)
    grove.insert("shared", 10)
    grove.insert("a", 10, below="shared")
    grove.insert("b", 10, below="shared")
    grove.remove("a")
    assert grove.evict_states() == ["lone", "shared", "b"]


def test_states_above_a_running_request_go_after_others_of_their_kind() -> None:
    grove = Grove()
    grove.insert("start", 10)
    grove.insert("middle", 10, below="start", state=False)
    grove.insert("end", 10, below="middle")
    grove.insert("other end", 10, below="end")
    grove.insert("lone", 10)
    grove.use("start", "end", "lone")
    for name in ("end", "other end"):
        grove.policy.lock_state(grove[name])
    assert grove.next_state() == "lone"
    grove.policy.unlock_state(grove["end"])
    assert grove.next_state() == "lone"
    grove.policy.unlock_state(grove["other end"])
    assert grove.evict_states() == ["other end", "start", "end", "lone"]


def test_branch_points_above_a_running_request_go_last_of_all() -> None:
    grove = Grove()
    for shared in ("first", "second"):
        grove.insert(shared, 10)
        for end in ("a", "b"):
            grove.insert(f"{shared} {end}", 10, below=shared)
    grove.insert("start", 10)
    grove.insert("end", 10, below="start")
    grove.use("start")
    for name in ("first a", "end"):
        grove.policy.lock_state(grove[name])
    assert grove.evict_states() == [
        *("first b", "second a", "second b", "start", "second", "first"),
    ]


def test_a_split_above_a_running_request_is_above_it() -> None:
    grove = Grove()
    grove.insert("end", 20)
    grove.policy.lock_state(grove["end"])
    grove.split("start", 10, above="end")
    grove.policy.store_state(grove["start"])
    grove.split("start of it", 5, above="start")
    grove.policy.store_state(grove["start of it"])
    grove.insert("lone", 10)
    assert grove.evict_states() == ["lone", "start", "start of it"]


def test_states_that_a_session_refers_to_come_after_all_others() -> None:
    grove = Grove()
    for name in ("session's", "session's turn", "shared", "a", "b"):
        below = {"session's turn": "session's", "a": "shared", "b": "shared"}.get(name, "")
        grove.insert(name, 10, below=below)
    grove.policy.refer_to_state(grove["session's"], True)
    grove.policy.refer_to_state(grove["a"], True)
    assert grove.next_state() == "session's turn"
    grove.policy.refer_to_state(grove["a"], False)
    assert grove.evict_states() == ["session's turn", "a", "b", "shared", "session's"]


def test_sessions_states_keep_their_ranks_among_themselves() -> None:
    grove = Grove()
    for name in ("shared", "a", "b", "lone"):
        grove.insert(name, 10, below="shared" if name in ("a", "b") else "")
        grove.policy.refer_to_state(grove[name], True)
    assert grove.evict_states() == ["a", "b", "lone", "shared"]


# ---- KV ----


def test_leaves_without_a_state_go_first() -> None:
    grove = Grove()
    grove.insert("old", 10)
    grove.insert("bare", 10, state=False)
    grove.insert("new", 10)
    assert grove.evict_leaves() == ["bare", "old", "new"]


def test_a_leaf_that_lost_its_state_goes_first_and_one_that_got_a_state_does_not() -> None:
    grove = Grove()
    grove.insert("gets one", 10, state=False)
    grove.insert("keeps it", 10)
    grove.insert("loses it", 10)
    assert grove.next_leaf() == "gets one"
    grove.policy.store_state(grove["gets one"])
    grove.policy.drop_state(grove["loses it"])
    assert grove.evict_leaves() == ["loses it", "keeps it", "gets one"]


def test_leaves_that_a_session_refers_to_come_after_all_others() -> None:
    grove = Grove()
    grove.insert("bare", 10, state=False)
    grove.insert("old", 10)
    grove.insert("new", 10)
    grove.policy.refer_to_kv(grove["bare"], True)
    grove.policy.offer_leaf(grove["old"], referenced=True)
    assert grove.next_leaf() == "new"
    grove.policy.refer_to_kv(grove["old"], False)
    assert grove.evict_leaves() == ["old", "new", "bare"]


# ---- states and KV in one budget ----


def test_one_budget_takes_leaves_and_states_in_one_order() -> None:
    grove = SharedGrove()
    grove.insert("shared", 10)
    grove.insert("a", 10, below="shared")
    grove.insert("b", 10, below="shared")
    grove.insert("turn 1", 10)
    grove.insert("turn 2", 10, below="turn 1")
    grove.insert("used", 10)
    grove.insert("used and continued", 10, below="used")
    grove.use("used")
    grove.insert("bare", 10, state=False)
    # With "a" gone, "shared" is no branch point; it goes bare as soon as it is a leaf.
    assert grove.evict() == [
        *("bare", "a", "shared", "b", "shared", "turn 1", "turn 2", "turn 1"),
        *("used and continued", "used"),
    ]


def test_one_budget_keeps_branch_points_to_the_last() -> None:
    grove = SharedGrove()
    grove.insert("shared", 10)
    grove.insert("a", 10, below="shared")
    grove.insert("b", 10, below="shared")
    for name in ("a", "b"):
        grove.policy.withdraw_leaf(grove[name])
    grove.insert("lone", 10)
    assert grove.evict() == ["lone", "shared"]


def test_one_budget_takes_what_sessions_refer_to_last() -> None:
    grove = SharedGrove()
    grove.insert("session's leaf", 10, state=False)
    grove.insert("session's turn 1", 10)
    grove.insert("session's turn 2", 10, below="session's turn 1")
    grove.insert("lone", 10)
    grove.policy.refer_to_kv(grove["session's leaf"], True)
    grove.policy.refer_to_state(grove["session's turn 1"], True)
    grove.policy.refer_to_kv(grove["session's turn 2"], True)
    assert grove.evict() == [
        *("lone", "session's leaf", "session's turn 1", "session's turn 2", "session's turn 1"),
    ]


# ---- of one kind ----


def test_without_alpha_the_least_recently_used_goes_first() -> None:
    grove = Grove()
    for name in ("a", "b", "c"):
        grove.insert(name, 1000 if name == "a" else 10)
    grove.use("b")
    assert grove.evict_states() == ["a", "c", "b"]
    for name in ("a", "b", "c"):
        grove.policy.store_state(grove[name])
    grove.use("a")
    assert grove.evict_leaves() == ["b", "c", "a"]


def test_uses_within_one_tick_keep_their_order() -> None:
    grove = Grove()
    for name in ("a", "b", "c"):
        grove.insert(name, 10)
    for name in ("b", "c", "a"):
        grove.policy.use(grove[name])
    assert grove.evict_states() == ["b", "c", "a"]


def test_longer_prefixes_outlast_more_recent_short_ones() -> None:
    """FLOPs grow faster than bytes, so a real model's cost favours long prefixes."""
    for alpha, first in ((0.0, "long"), (2.0, "short")):
        grove = Grove(PaperUtility(alpha), cost=preset("paper-7b"))
        grove.insert("long", 10_000)
        grove.insert("middle", 5000)
        grove.insert("short", 100)
        assert grove.next_state() == first
        assert grove.next_leaf() == first


def test_what_a_session_refers_to_goes_after_all_else() -> None:
    assert sorted(TIERS) == list(TIERS)
    assert [tier.words for tier in TIERS] == [
        "nothing resumes there",
        "demotions",
        "checkpoints with at most one child",
        "checkpoints with at most one child, in use below",
        "branch points",
        "branch points, in use below",
        "nothing resumes there, of a session",
        "demotions, of a session",
        "checkpoints with at most one child, of a session",
        "checkpoints with at most one child, in use below, of a session",
        "branch points, of a session",
        "branch points, in use below, of a session",
    ]
