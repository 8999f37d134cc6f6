"""The check of a policy: it finds each kind of mistake, names it, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sglang_marconi.policy.check import (
    Disagreement,
    OwnersNode,
    OwnersTotals,
    check_policy,
    check_tree,
)
from sglang_marconi.policy.eviction import LeafEviction, PricedLedger, SharedBudgetEviction
from sglang_marconi.policy.forms import forms_of
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Candidate, Ranking, Valuation
from sglang_marconi.policy.utility import PaperUtility
from support.grove import Grove, NamedTree, SharedGrove

FORMS = forms_of(100, ("int8", 30), host=True)

each_valuation = pytest.mark.parametrize(
    "valuation", [lambda: PaperUtility(0.7), PredictedReuse], ids=["utility", "prediction"]
)


def grow(tree: NamedTree[Any]) -> None:
    """A branch point with two ends below it, of which one is in use, and an end without a state."""
    tree.insert("end", 20)
    tree.split("branch", 8, above="end")
    tree.insert("other", 5, below="branch")
    tree.policy.store_state(tree["branch"])
    tree.insert("bare", 7, state=False)
    tree.insert("on the host", 9)
    tree.policy.lock_state(tree["end"])
    tree.policy.withdraw_leaf(tree["end"])
    tree.policy.tick()


def grown(valuation: Valuation | None = None) -> Grove:
    grove = Grove(valuation, forms=FORMS)
    grow(grove)
    grove.policy.set_form(grove["on the host"], 2)
    grove.policy.tick()
    return grove


def placing(node: str, room: str, **changes: Any) -> Callable[[Grove], None]:
    """Places ``node`` as another candidate than it is."""

    def plant(grove: Grove) -> None:
        ranking, candidate = role(grove, node, room)
        ranking.place(grove[node], (candidate or Candidate(1.0, True, False))._replace(**changes))

    return plant


def role(grove: Grove, node: str, room: str) -> tuple[Ranking, Candidate | None]:
    return grove.policy.roles(grove[node])[room]


def hang_elsewhere(grove: Grove) -> None:
    grove["other"].parent = grove["bare"]


def end_too_early(grove: Grove) -> None:
    grove["other"].depth = 8


def forget_a_candidate(grove: Grove) -> None:
    role(grove, "other", "states")[0].discard(grove["other"])


def use_unnoticed(grove: Grove) -> None:
    grove["other"].last_use += 1


def rank_twice(grove: Grove) -> None:
    ranking, _ = role(grove, "other", "KV")
    placed = list(ranking.placed())
    again = next(one for one in placed if one.node is grove["other"])
    # On the object alone, not on those of its class.
    ranking.placed = lambda: iter([*placed, again._replace(group="checkpoints")])  # type: ignore[method-assign]


def rank_what_is_gone(grove: Grove) -> None:
    ranking, candidate = role(grove, "bare", "KV")
    node = grove["bare"]
    grove.remove("bare")
    assert candidate is not None
    ranking.place(node, candidate)


MISTAKES: dict[str, tuple[Callable[[Grove], None], str]] = {
    "parent": (hang_elsewhere, "node 2 is no child of node 3 above it"),
    "depth": (end_too_early, "node 2 ends at 8, node 1 above it at 8"),
    "form": (lambda grove: setattr(grove["other"], "form", 3), "node 2 is in form 3 of 3"),
    "branched": (
        lambda grove: setattr(grove["branch"], "branched", False),
        "node 1 has several children, but never branched",
    ),
    "in use below": (
        lambda grove: setattr(grove["branch"], "running_below", 0),
        "node 1 has 0 nodes in use below it, but they are 1",
    ),
    "missing": (
        forget_a_candidate,
        "where room for states is short, node 2 is no candidate, but should be among",
    ),
    "needless": (
        placing("end", "states"),
        "where room for states is short, node 0 is among .*, but should be no candidate",
    ),
    "needless on the host": (
        placing("other", "states on the host"),
        "where room for states on the host is short, node 2 is among .* should be no candidate",
    ),
    "group": (
        placing("other", "KV", referenced=True),
        "where room for KV is short, node 2 is among .* of a session.*, but should be among",
    ),
    "group of a node without a state": (
        placing("bare", "KV", resumable=True),
        "where room for KV is short, node 3 is among .* should be among nothing resumes there",
    ),
    "price": (
        placing("other", "states", efficiency=99.5),
        "where room for states is short, node 2 is among .*efficiency 99.5, .* should be among",
    ),
    "last use": (
        use_unnoticed,
        "where room for states is short, node 2 is among .* last use .* but should be among",
    ),
    "twice": (rank_twice, "where room for KV is short, node 2 is ranked twice"),
    "gone": (rank_what_is_gone, "where room for KV is short, node 3 is ranked, but gone"),
}


@each_valuation
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_the_policy_is_named(valuation: Callable[[], Valuation], mistake: str) -> None:
    grove = grown(valuation())
    check_policy(grove.policy)
    plant, message = MISTAKES[mistake]
    plant(grove)
    with pytest.raises(Disagreement, match=message):
        check_policy(grove.policy)


@each_valuation
@pytest.mark.parametrize("policy", [SharedBudgetEviction, LeafEviction])
def test_one_budget_is_checked_as_well(
    policy: type[SharedBudgetEviction], valuation: Callable[[], Valuation]
) -> None:
    grove = SharedGrove(valuation(), policy=policy)
    grow(grove)
    check_policy(grove.policy)
    ranking, candidate = grove.policy.roles(grove["other"])["states and KV"]
    assert candidate is not None
    ranking.place(grove["other"], candidate._replace(referenced=True))
    with pytest.raises(Disagreement, match="where room for states and KV is short, node 2 is"):
        check_policy(grove.policy)


def test_what_the_policy_has_not_looked_at_yet_is_no_mistake() -> None:
    grove = grown()
    grove.policy.use(grove["other"])
    grove.policy.refer_to_kv(grove["bare"], True)
    check_policy(grove.policy)
    grove.policy.revalue(PaperUtility(2.0))
    check_policy(grove.policy)


# ---- beside its owner's tree ----


def owned(policy: PricedLedger) -> Iterator[OwnersNode]:
    """What an owner has that agrees with the policy."""
    for node in policy.nodes():
        assert node.parent is not None
        yield OwnersNode(
            node.handle,
            node.parent.handle,
            *(getattr(node, field) for field in OwnersNode._fields[2:]),
        )


def totals(policy: PricedLedger) -> OwnersTotals:
    # Two leaves below a branch point, and two more.
    return OwnersTotals(20 + 5 + 7 + 9, [3, 0, 1])


DIFFERENCES = {
    "parent": ("other", "node 2 has parent 1 in the policy, 0 in the tree", 0),
    "depth": ("other", "node 2 has depth 13 in the policy, 14 in the tree", 14),
    "has_state": ("other", "node 2 has has_state True in the policy, False in the tree", False),
    "form": ("other", "node 2 has form 0 in the policy, 1 in the tree", 1),
    "state_in_use": ("end", "node 0 has state_in_use True in the policy, False in the tree", False),
    "state_referenced": ("end", "state_referenced False in the policy, True in the tree", True),
    "leaf_offered": ("bare", "node 3 has leaf_offered True in the policy, False in the", False),
    "kv_referenced": ("bare", "node 3 has kv_referenced False in the policy, True in the", True),
}


@pytest.mark.parametrize("field", DIFFERENCES)
def test_a_difference_from_the_tree_is_named(field: str) -> None:
    policy = (grove := grown()).policy
    name, message, value = DIFFERENCES[field]
    nodes = list(owned(policy))
    check_tree(policy, nodes, totals(policy))
    at = next(at for at, node in enumerate(nodes) if node.handle == grove[name].handle)
    nodes[at] = nodes[at]._replace(**{field: value})
    with pytest.raises(Disagreement, match=message):
        check_tree(policy, nodes, totals(policy))


def test_what_the_tree_has_alone_is_named() -> None:
    policy = (grove := grown()).policy
    nodes = list(owned(policy))
    grove.remove("bare")
    with pytest.raises(Disagreement, match="node 3 is in the tree, but the policy has none"):
        check_tree(policy, nodes, totals(policy))


def test_what_the_policy_has_alone_is_named() -> None:
    policy = grown().policy
    nodes = [node for node in owned(policy) if node.handle != 3]
    with pytest.raises(Disagreement, match="the policy has node 3, but it is not in the tree"):
        check_tree(policy, nodes, totals(policy))


@pytest.mark.parametrize(
    ("tokens", "states", "message"),
    [
        (42, [3, 0, 1], "41 tokens in the policy, 42 in the tree"),
        (41, [4, 0, 1], r"3 states in form exact in the policy \(300 bytes\), 4 .* \(400 bytes\)"),
        (41, [3, 0, 0], r"1 states in form host in the policy \(30 bytes\), 0 in the tree"),
    ],
)
def test_what_does_not_add_up_is_named(tokens: int, states: list[int], message: str) -> None:
    policy = grown().policy
    with pytest.raises(Disagreement, match=message):
        check_tree(policy, owned(policy), OwnersTotals(tokens, states))
