"""The policies by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.eviction import EvictionPolicy, LeafEviction, SharedBudgetEviction
from sglang_marconi.policy.forms import Form, forms_of
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.utility import PaperUtility
from sglang_marconi.simulate.block_cache import BlockCache
from sglang_marconi.simulate.cache import Budget, SimulatedCache
from sglang_marconi.simulate.foresight import ClairvoyantCache
from sglang_marconi.simulate.shared_budget import SharedBudgetCache
from sglang_marconi.simulate.tuned_cache import TunedCache
from sglang_marconi.simulate.two_pools import TwoPoolCache
from sglang_marconi.traces.requests import TraceRequest

UNLIMITED = "unlimited"
NAMES = {
    "vllm+": "a state at every block of 32 tokens, LRU",
    "sglang+": "states at branches and ends, LRU on leaves",
    "lru": "states at branches and ends, LRU on nodes with at most one child",
    "marconi": "the paper: utility, alpha tuned once on a window; marconi:ALPHA fixes it",
    "auto": "this project's default: predicted reuse, no parameter",
    "clairvoyant": "knows the future: an upper mark",
    UNLIMITED: "no budget",
}

_VALUATIONS: dict[str, Callable[[], Valuation]] = {
    "lru": lambda: PaperUtility(0.0),
    "auto": PredictedReuse,
}

_ONE_BUDGET: dict[str, Callable[[ModelCost, int, Sequence[TraceRequest]], SimulatedCache]] = {
    "vllm+": lambda cost, total, _: BlockCache(cost, total),
    "sglang+": lambda cost, total, _: SharedBudgetCache(
        cost, LeafEviction(cost, PaperUtility(0.0)), total
    ),
    "marconi": lambda cost, total, _: TunedCache(cost, total),
    "clairvoyant": ClairvoyantCache,
    UNLIMITED: lambda cost, _total, _: SharedBudgetCache(
        cost, SharedBudgetEviction(cost, PaperUtility(0.0)), None
    ),
}


class PolicyError(ValueError):
    """There is no such policy, or not with this budget."""


def check_policy(policy: str, budget: Budget) -> None:
    """See whether there is such a policy for such a budget.

    Raises:
        PolicyError: names the policy and what is possible.
    """
    name, colon, alpha = policy.partition(":")
    if name not in NAMES or (colon and name != "marconi"):
        raise PolicyError(f"no policy {policy!r}; there are {', '.join(NAMES)}, marconi:ALPHA")
    if colon:
        _number(policy, alpha)
    elif name in _ONE_BUDGET and name != UNLIMITED:
        possible = ", ".join([*_VALUATIONS, "marconi:ALPHA", UNLIMITED])
        if budget.state_share is not None:
            raise PolicyError(f"{policy} is for one budget; with two pools there are {possible}")
        if budget.encoding != "exact":
            raise PolicyError(f"{policy} keeps states exact; with an encoding there are {possible}")


def build_cache(
    policy: str, cost: ModelCost, budget: Budget, requests: Sequence[TraceRequest]
) -> SimulatedCache:
    """The cache of a policy, empty.

    ``requests`` is the trace to come, which only ``clairvoyant`` looks at.

    Raises:
        PolicyError: see `check_policy`.
    """
    check_policy(policy, budget)
    name, colon, alpha = policy.partition(":")
    if colon:
        return _tree_cache(cost, budget, PaperUtility(_number(policy, alpha)))
    if name in _VALUATIONS:
        return _tree_cache(cost, budget, _VALUATIONS[name]())
    return _ONE_BUDGET[name](cost, budget.total_bytes, requests)


def _number(policy: str, text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = -1.0
    if not alpha >= 0:
        raise PolicyError(f"policy {policy!r}: alpha is a number from 0")
    return alpha


def _tree_cache(cost: ModelCost, budget: Budget, valuation: Valuation) -> SimulatedCache:
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
