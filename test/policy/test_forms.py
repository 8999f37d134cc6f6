"""Checkpoints with several forms: which step is taken first."""

from __future__ import annotations

import pytest
from sglang_marconi.policy.forms import LOSSY_LOSS, Form, check_forms, forms_of
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.utility import PaperUtility
from support.grove import TOKENS, Grove, SharedGrove

LOSSY = forms_of(TOKENS.state_bytes, ("int8", 25))
HOSTED = forms_of(TOKENS.state_bytes, ("int8", 25), host=True)


def step(grove: Grove | SharedGrove) -> tuple[str, str] | None:
    """Take the next step; whose state, and what it became."""
    policy = grove.policy
    node = policy.least_useful_state() if isinstance(grove, Grove) else policy.least_useful()
    if node is None:
        return None
    name = grove.name(node)
    assert name is not None
    following = policy.demotion(node) if node.has_state else None
    if following is not None:
        policy.set_form(node, following)
        return name, policy.forms[following].name
    if isinstance(grove, Grove) or node.children:
        grove.drop(name)
    else:
        grove.remove(name)
    return name, "gone"


def steps(grove: Grove | SharedGrove) -> list[tuple[str, str]]:
    taken = []
    while (what := step(grove)) is not None:
        taken.append(what)
    return taken


def test_forms() -> None:
    assert [form.name for form in HOSTED] == ["exact", "int8", "host"]
    assert [form.device_bytes for form in HOSTED] == [100, 25, 0]
    assert HOSTED[-1].host_bytes == 25
    assert forms_of(100) == [Form("exact", 100)]
    assert forms_of(100, host=True)[-1].host_bytes == 100


def test_a_form_has_to_save_room() -> None:
    with pytest.raises(ValueError, match="gain nothing"):
        check_forms(forms_of(100, ("bf16", 100)))


def test_the_papers_policy_demotes_all_before_any_goes() -> None:
    grove = Grove(PaperUtility(0.0), forms=LOSSY)
    for name in ("a", "b", "c"):
        grove.insert(name, 10)
    grove.use("a")
    order = ["b", "c", "a"]
    assert steps(grove) == [(n, "int8") for n in order] + [(n, "gone") for n in order]


def test_a_new_state_is_exact_again() -> None:
    grove = Grove(PaperUtility(0.0), forms=LOSSY)
    grove.insert("a", 10)
    assert step(grove) == ("a", "int8")
    grove.drop("a")
    grove.policy.store_state(grove["a"])
    assert step(grove) == ("a", "int8")


def test_what_is_in_use_is_not_demoted() -> None:
    grove = Grove(PaperUtility(0.0), forms=LOSSY)
    grove.insert("a", 10)
    grove.insert("b", 10)
    grove.policy.lock_state(grove["a"])
    assert steps(grove) == [("b", "int8"), ("b", "gone")]
    grove.policy.unlock_state(grove["a"])
    assert step(grove) == ("a", "int8")


def test_prediction_weighs_a_demotion_by_what_it_gives_up() -> None:
    """Worth w in 100 bytes: demoting gives up a fiftieth of w for 75 of them."""
    grove = Grove(PredictedReuse(), forms=LOSSY)
    grove.insert("short", 10)
    grove.insert("long", 1000)
    assert step(grove) == ("short", "int8")
    # Now the short one would go whole, for 25 bytes; of the long one it is a fiftieth for 75.
    assert LOSSY_LOSS * 1000 / 75 * 2 > 10 / 25
    assert 10 * (1 - LOSSY_LOSS) / 25 > LOSSY_LOSS * 1000 / 75
    assert step(grove) == ("long", "int8")
    assert step(grove) == ("short", "gone")


def test_prediction_keeps_exact_what_is_worth_very_much_more() -> None:
    grove = Grove(PredictedReuse(), forms=LOSSY)
    grove.insert("short", 1)
    grove.insert("long", 100_000)
    assert [step(grove), step(grove), step(grove)] == [
        ("short", "int8"),
        ("short", "gone"),
        ("long", "int8"),
    ]


def test_states_on_the_host_compete_with_each_other() -> None:
    grove = Grove(PaperUtility(0.0), forms=HOSTED)
    for name in ("a", "b"):
        grove.insert(name, 10)
    assert steps_to_host(grove, 2) == ["a", "b"]
    # None is left on the device.
    assert grove.policy.least_useful_state() is None
    grove.use("a")
    assert grove.name(grove.policy.least_useful_on_host()) == "b"
    grove.policy.lock_state(grove["b"])
    assert grove.name(grove.policy.least_useful_on_host()) == "a"
    grove.policy.set_form(grove["a"], 1)
    assert grove.policy.least_useful_on_host() is None
    assert grove.name(grove.policy.least_useful_state()) == "a"


def steps_to_host(grove: Grove, count: int) -> list[str]:
    """Take steps until so many states have come to the host; whose."""
    moved: list[str] = []
    while len(moved) < count:
        what = step(grove)
        assert what is not None
        assert what[1] != "gone"
        if what[1] == "host":
            moved.append(what[0])
    return moved


def test_a_leaf_that_leaves_takes_its_state_on_the_host_with_it() -> None:
    grove = Grove(PaperUtility(0.0), forms=HOSTED)
    grove.insert("a", 10)
    assert steps_to_host(grove, 1) == ["a"]
    assert grove.evict_leaves() == ["a"]
    assert grove.policy.least_useful_on_host() is None


def test_in_one_budget_states_are_demoted_before_leaves_go() -> None:
    grove = SharedGrove(PaperUtility(0.0), forms=LOSSY)
    grove.insert("a", 10)
    grove.insert("b", 10, below="a")
    assert steps(grove) == [
        ("a", "int8"),
        ("b", "int8"),
        ("a", "gone"),
        ("b", "gone"),
        ("a", "gone"),
    ]
