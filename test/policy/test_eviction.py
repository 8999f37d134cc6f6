"""The eviction policies without SGLang: what is a candidate, and at which price."""

from __future__ import annotations

from sglang_marconi.policy.eviction import LeafEviction
from sglang_marconi.policy.utility import PaperUtility
from support.grove import Grove, SharedGrove

# ---- in use or not ----


def test_states_in_use_stay() -> None:
    grove = Grove()
    for name in ("a", "b"):
        grove.insert(name, 10)
        grove.policy.lock_state(grove[name])
        grove.policy.lock_state(grove[name])
    assert grove.next_state() is None
    grove.policy.unlock_state(grove["b"])
    assert grove.evict_states() == ["b"]
    grove.policy.unlock_state(grove["a"])
    assert grove.evict_states() == ["a"]


def test_a_state_stored_at_a_node_in_use_stays() -> None:
    grove = Grove()
    grove.insert("a", 10, state=False)
    grove.policy.lock_state(grove["a"])
    grove.policy.store_state(grove["a"])
    grove.policy.use(grove["a"])
    assert grove.next_state() is None
    grove.policy.unlock_state(grove["a"])
    assert grove.next_state() == "a"


def test_leaves_in_use_stay() -> None:
    grove = Grove()
    grove.insert("a", 10)
    grove.insert("b", 10)
    grove.policy.withdraw_leaf(grove["a"])
    grove.policy.use(grove["a"])
    assert grove.evict_leaves() == ["b"]
    grove.policy.offer_leaf(grove["a"])
    assert grove.evict_leaves() == ["a"]


def test_a_freed_leaf_makes_its_parent_the_next_one() -> None:
    grove = Grove()
    grove.insert("prompt", 10, state=False)
    grove.insert("reply", 10, below="prompt")
    grove.insert("other", 10)
    grove.use("reply")
    assert grove.evict_leaves() == ["other", "reply", "prompt"]


def test_clear_forgets_everything() -> None:
    grove = Grove()
    for name in ("a", "b"):
        grove.insert(name, 10)
    old_root = grove.policy.root
    grove.policy.clear()
    assert grove.policy.root is not old_root
    assert not grove.policy.root.children
    assert grove.next_state() is None
    assert grove.next_leaf() is None


# ---- what a hit saves, and an eviction frees ----


def test_a_state_counts_what_it_saves_beyond_the_nearest_one_above() -> None:
    grove = Grove(PaperUtility(1000.0))
    grove.insert("first", 50)
    grove.insert("second", 10, below="first")
    grove.insert("rival", 30)
    grove.use("first")
    # 10 tokens beyond the state above; 30 and 50 without one.
    assert grove.next_state() == "second"
    grove.policy.drop_state(grove["first"])
    assert grove.next_state() == "rival"
    grove.policy.store_state(grove["first"])
    assert grove.evict_states() == ["second", "rival", "first"]


def test_a_state_below_nodes_without_one_is_repriced_too() -> None:
    grove = Grove(PaperUtility(1000.0))
    grove.insert("top", 40)
    grove.insert("middle", 10, below="top", state=False)
    grove.insert("deep", 10, below="middle")
    grove.insert("rival", 30)
    grove.use("top")
    assert grove.next_state() == "deep"
    grove.policy.drop_state(grove["top"])
    assert grove.next_state() == "rival"
    grove.policy.store_state(grove["middle"])
    assert grove.next_state() == "deep"


def test_kv_that_a_fork_keeps_does_not_count_for_a_leaf() -> None:
    grove = Grove(PaperUtility(1000.0))
    grove.insert("rival", 300)
    grove.insert("prompt", 100, state=False)
    grove.insert("between", 100, below="prompt", state=False)
    grove.insert("leaf", 100, below="between")
    # 300 tokens saved for 400 bytes both; the rival is older.
    assert grove.next_leaf() == "rival"
    grove.use("rival")
    assert grove.next_leaf() == "leaf"
    # For 100 + 200 bytes, once something else keeps the prompt.
    grove.insert("fork", 10, below="prompt")
    grove.policy.withdraw_leaf(grove["fork"])
    assert grove.next_leaf() == "rival"
    grove.remove("fork")
    assert grove.next_leaf() == "leaf"


def test_kv_that_a_state_keeps_does_not_count_for_a_leaf() -> None:
    grove = Grove(PaperUtility(1000.0))
    grove.insert("prompt", 150)
    grove.insert("half", 75, below="prompt", state=False)
    grove.insert("leaf", 75, below="half")
    grove.insert("short rival", 100)
    # 150 tokens saved for 100 + 150 bytes, against 100 for 200.
    assert grove.next_leaf() == "short rival"
    grove.remove("short rival")
    grove.insert("long rival", 250)
    # Against 250 for 350.
    assert grove.next_leaf() == "leaf"
    # 300 for 400.
    grove.policy.drop_state(grove["prompt"])
    assert grove.next_leaf() == "long rival"


def test_a_split_changes_no_price() -> None:
    grove = Grove(PaperUtility(1000.0))
    grove.insert("leaf", 200)
    grove.insert("rival", 190)
    assert (grove.next_state(), grove.next_leaf()) == ("rival", "rival")
    grove.split("upper", 100, above="leaf")
    grove.use("rival")
    assert (grove.next_state(), grove.next_leaf()) == ("rival", "rival")


# ---- one budget for states and KV ----


def test_one_budget_weighs_a_leaf_and_a_state_by_their_utility() -> None:
    # A leaf frees its KV too: 90 tokens saved for 190 bytes, against 80 for 100.
    grove = SharedGrove(PaperUtility(1000.0))
    grove.insert("inner", 80)
    grove.insert("outer", 500, below="inner")
    grove.use("inner")
    grove.insert("leaf", 90)
    assert grove.next() == "leaf"
    grove.remove("leaf")
    # 500 for 600, against 80 for 100.
    assert grove.next() == "inner"


def test_one_budget_leaves_alone_what_is_in_use() -> None:
    grove = SharedGrove()
    grove.insert("prompt", 10)
    grove.insert("reply", 10, below="prompt")
    grove.policy.lock_state(grove["prompt"])
    grove.policy.withdraw_leaf(grove["reply"])
    # Not even the reply's state: it is not apart from the leaf.
    assert grove.next() is None
    grove.policy.offer_leaf(grove["reply"])
    assert grove.evict() == ["reply", "prompt"]


def test_leaf_eviction_touches_nothing_but_leaves() -> None:
    grove = SharedGrove(policy=LeafEviction)
    grove.insert("turn 1", 10)
    grove.insert("turn 2", 10, below="turn 1")
    grove.insert("lone", 10)
    grove.use("turn 2")
    grove.insert("bare", 10, state=False)
    assert grove.evict() == ["bare", "lone", "turn 2", "turn 1"]
    grove.insert("prompt", 10)
    grove.insert("reply", 10, below="prompt")
    grove.policy.withdraw_leaf(grove["reply"])
    assert grove.next() is None
