"""SGLang's check of an idle server finds where our policy and its tree do not agree."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from marconi_kernels import Encoding
from sglang.srt.environ import envs
from sglang.srt.managers.scheduler_components.invariant_checker import SchedulerInvariantChecker
from sglang_marconi.cost import preset
from sglang_marconi.policy.check import Disagreement
from sglang_marconi.policy.eviction import EvictionPolicy
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.utility import PaperUtility
from support.stored_serving import CONFIG, StoredServing
from support.tree_serving import SINGLE_TOKENS, Serving, with_free_passes


def shared_slots() -> Serving:
    policy = EvictionPolicy(with_free_passes(preset("paper-7b")), PaperUtility(0.5))
    return Serving(SINGLE_TOKENS, policy)


def with_store() -> Serving:
    return StoredServing(CONFIG, PaperUtility(0.5), lossy=Encoding.INT8, host=False)


def fill(serving: Serving) -> None:
    """A branch point and two ends below it, all with a state; one end is in use."""
    for reply in (5, 6):
        flight = serving.begin([1, 2, reply])
        assert flight is not None
        if flight.branch is not None:
            serving.chunk(flight, flight.branch)
        serving.chunk(flight, 3)
        serving.decode(flight, [reply])
        serving.finish(flight)
    serving.hold([1, 2, 5, 5], state=True)


def idle_check(serving: Serving) -> None:
    """What SGLang's scheduler calls while it is idle."""
    scheduler = SimpleNamespace(tree_cache=serving.cache, is_hybrid_swa=False, is_hybrid_ssm=True)
    SchedulerInvariantChecker._check_tree_cache(scheduler)


def prefix(serving: Serving, *tokens: int) -> PrefixNode:
    """The policy's node of a prefix."""
    nodes = (node for node in serving.tree._collect_all_nodes())
    return serving.tree.prefix(next(node for node in nodes if serving.tree.tokens(node) == tokens))


def lose_a_state(serving: Serving) -> None:
    serving.tree.policy.drop_state(prefix(serving, 1, 2))


def lose_a_leaf(serving: Serving) -> None:
    serving.tree.policy.remove(prefix(serving, 1, 2, 6, 6))


def invent_a_leaf(serving: Serving) -> None:
    serving.tree.policy.add(serving.tree.policy.root, 999, 5)


def unlock_a_state(serving: Serving) -> None:
    serving.tree.policy.unlock_state(prefix(serving, 1, 2, 5, 5))


def withdraw_a_leaf(serving: Serving) -> None:
    serving.tree.policy.withdraw_leaf(prefix(serving, 1, 2, 6, 6))


def refer_to_a_state(serving: Serving) -> None:
    serving.tree.policy.refer_to_state(prefix(serving, 1, 2), True)


def refer_to_a_leaf(serving: Serving) -> None:
    serving.tree.policy.refer_to_kv(prefix(serving, 1, 2, 6, 6), True)


def shorten_a_prefix(serving: Serving) -> None:
    prefix(serving, 1, 2).depth = 1


def rank_a_leaf_as_another(serving: Serving) -> None:
    policy, node = serving.tree.policy, prefix(serving, 1, 2, 6, 6)
    policy.least_useful_leaf()
    ranking, candidate = policy.roles(node)["KV"]
    assert candidate is not None
    ranking.place(node, candidate._replace(referenced=True))


MISTAKES: dict[Callable[[Serving], None], str] = {
    lose_a_state: "has has_state False in the policy, True in the tree",
    lose_a_leaf: "is in the tree, but the policy has none",
    invent_a_leaf: "the policy has node 999, but it is not in the tree",
    unlock_a_state: "has state_in_use False in the policy, True in the tree",
    withdraw_a_leaf: "has leaf_offered False in the policy, True in the tree",
    refer_to_a_state: "has state_referenced True in the policy, False in the tree",
    refer_to_a_leaf: "has kv_referenced True in the policy, False in the tree",
    shorten_a_prefix: "has depth 1 in the policy, 2 in the tree",
    rank_a_leaf_as_another: "where room for KV is short, node .* is among .* of a session",
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("make", [shared_slots, with_store])
def test_a_mistake_is_found_while_idle(
    make: Callable[[], Serving], mistake: Callable[[Serving], None]
) -> None:
    serving = make()
    fill(serving)
    with envs.SGLANG_ENABLE_TREE_CACHE_SANITY_CHECK.override(True):
        idle_check(serving)
        mistake(serving)
        with pytest.raises(Disagreement, match=MISTAKES[mistake]):
            idle_check(serving)


def test_a_server_that_was_not_asked_to_does_not_check() -> None:
    serving = shared_slots()
    fill(serving)
    lose_a_state(serving)
    with envs.SGLANG_ENABLE_TREE_CACHE_SANITY_CHECK.override(False):
        idle_check(serving)


def test_the_stores_checkpoints_are_those_of_the_tree() -> None:
    serving: Any = with_store()
    fill(serving)
    node = prefix(serving, 1, 2)
    serving.tree.policy.set_form(node, 1)
    with pytest.raises(Disagreement, match="has form 1 in the policy, 0 in the tree"):
        serving.cache.sanity_check()
    serving.tree.policy.set_form(node, 0)
    serving.cache.sanity_check()
    # A checkpoint that no node has.
    assert serving.checkpoints.alloc() is not None
    with pytest.raises(Disagreement, match=r"3 states in form exact .* 4 in the tree"):
        serving.cache.sanity_check()
