"""The caches to simulate, by name: the registry's policies, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.eviction import EvictionPolicy, LeafEviction, SharedBudgetEviction
from sglang_marconi.policy.forms import Form, forms_of
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.registry import (
    BASELINE,
    DEFAULT,
    POLICIES,
    SERVED,
    TUNED,
    make_valuation,
)
from sglang_marconi.simulate.block_cache import BlockCache
from sglang_marconi.simulate.cache import Budget, SimulatedCache
from sglang_marconi.simulate.oracle import OracleCache
from sglang_marconi.simulate.radix_cache import RadixCache
from sglang_marconi.simulate.shared_budget import SharedBudgetCache
from sglang_marconi.simulate.tuned_cache import TunedCache
from sglang_marconi.simulate.two_pools import TwoPoolCache
from sglang_marconi.traces.requests import TraceRequest

ORACLE = "oracle"
UNLIMITED = "unlimited"

_ONE_BUDGET: dict[str, Callable[[ModelCost, int, Sequence[TraceRequest]], SimulatedCache]] = {
    "vllm+": lambda cost, total, _: BlockCache(cost, total),
    "sglang+": lambda cost, total, _: SharedBudgetCache(
        cost, LeafEviction(cost, make_valuation(BASELINE)), total
    ),
    ORACLE: OracleCache,
    UNLIMITED: lambda cost, _total, _: SharedBudgetCache(
        cost, SharedBudgetEviction(cost, make_valuation(BASELINE)), None
    ),
}

NAMES = {
    **{name: policy.description for name, policy in POLICIES.items()},
    TUNED: f"{POLICIES[TUNED].description}; alpha is tuned, or fixed by {TUNED}:ALPHA",
    "vllm+": "a state at every block of 32 tokens, LRU",
    "sglang+": "states at branches and ends, LRU on leaves",
    ORACLE: "knows the requests to come, to measure the others by",
    UNLIMITED: "no budget",
}
"""What there is, with a description."""

SEEN = f"{DEFAULT}:seen"
"""The default's eviction with the paper's admission, as a server has it that is told so."""

# The tuner is told of requests as they end.
_ONE_BY_ONE = ("vllm+", TUNED)


class PolicyError(ValueError):
    """There is no such policy, or not with this budget."""


def check_policy(policy: str, budget: Budget, *, together: bool = False) -> None:
    """See whether there is such a policy for such a budget, and for requests that come together.

    Raises:
        PolicyError: names the policy and what is possible.
    """
    name, colon, alpha = policy.partition(":")
    if name not in NAMES or (colon and name != TUNED and policy != SEEN):
        possible = ", ".join((*NAMES, SEEN, f"{TUNED}:ALPHA"))
        raise PolicyError(f"no policy {policy!r}; there are {possible}")
    if colon and policy != SEEN:
        _number(policy, alpha)
    elif not colon and name not in POLICIES and name != UNLIMITED:
        possible = ", ".join([*POLICIES, f"{TUNED}:ALPHA", UNLIMITED])
        if budget.state_share is not None:
            raise PolicyError(f"{policy} is for one budget; with two pools there are {possible}")
        if budget.encoding != "exact":
            raise PolicyError(f"{policy} keeps states exact; with an encoding there are {possible}")
    if together and policy in _ONE_BY_ONE:
        possible = ", ".join(name for name in (*NAMES, f"{TUNED}:ALPHA") if name not in _ONE_BY_ONE)
        raise PolicyError(f"{policy} serves one request at a time; several, {possible} do")


def build_cache(
    policy: str, cost: ModelCost, budget: Budget, requests: Sequence[TraceRequest]
) -> SimulatedCache:
    """The cache of a policy, empty.

    ``requests`` is the trace to come, as it will be served, which only ``oracle`` looks at.

    Raises:
        PolicyError: see `check_policy`.
    """
    check_policy(policy, budget)
    name, colon, alpha = policy.partition(":")
    if name not in POLICIES:
        return _ONE_BUDGET[name](cost, budget.total_bytes, requests)

    def empty() -> RadixCache:
        cache = _tree_cache(cost, budget, make_valuation(name))
        cache.waits = name in SERVED and policy != SEEN
        cache.predicts = cache.waits and cache.policy.valuation.weighs_guesses
        return cache

    if name == TUNED and not colon:
        return TunedCache(empty)
    cache = empty()
    if colon and policy != SEEN:
        cache.policy.valuation.alpha = _number(policy, alpha)
    return cache


def _number(policy: str, text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = -1.0
    if not alpha >= 0:
        raise PolicyError(f"policy {policy!r}: alpha is a number from 0")
    return alpha


def _tree_cache(cost: ModelCost, budget: Budget, valuation: Valuation) -> RadixCache:
    forms = _forms(cost, budget.encoding)
    if budget.state_share is None:
        policy = SharedBudgetEviction(cost, valuation, forms)
        return SharedBudgetCache(cost, policy, budget.total_bytes)
    if not cost.state_bytes:
        raise PolicyError("two pools need a model with recurrent layers")
    states = int(budget.total_bytes * budget.state_share)
    return TwoPoolCache(
        cost,
        EvictionPolicy(cost, valuation, forms),
        state_bytes=states,
        kv_bytes=budget.total_bytes - states,
        store=budget.encoding != "exact",
    )


def _forms(cost: ModelCost, encoding: str) -> list[Form]:
    exact, encoded = cost.state_bytes, cost.encoded_state_bytes(encoding)
    return forms_of(exact, (encoding, encoded) if encoded < exact else None)
