"""Changing the policy of a running server, through SGLang's ``/set_internal_state``.

SGLang sends such a request to all ranks, which handle it between the same two batches. It takes
nothing but numbers, so policies have one each; ``sglang-marconi set`` knows them by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.managers.scheduler_components.internal_state import UpdateRejected, _UpdateHandler

from sglang_marconi.settings.runtime import ALPHA, POLICIES, POLICY

if TYPE_CHECKING:
    from sglang_marconi.cache.live_policy import LivePolicy


def add_updates(
    policy: LivePolicy, handlers: dict[str, _UpdateHandler], _controller: Any
) -> dict[str, _UpdateHandler]:
    """SGLang's handlers of updates, and ours. To set alpha is to choose the paper's policy."""
    return {
        **handlers,
        POLICY: _UpdateHandler(_check_policy, lambda _, value: _use(policy, int(value))),
        ALPHA: _UpdateHandler(_check_alpha, lambda _, value: policy.use_utility(float(value))),
    }


def _use(policy: LivePolicy, number: int) -> None:
    if POLICIES[number] == "auto":
        policy.use_prediction()
    else:
        policy.use_utility(None)


def _check_policy(key: str, value: Any) -> None:
    if value not in range(len(POLICIES)):
        named = ", ".join(f"{number} is {name}" for number, name in enumerate(POLICIES))
        raise UpdateRejected(f"Updating {key} to {value} is rejected: {named}.")


def _check_alpha(key: str, value: Any) -> None:
    if not 0 <= value < float("inf"):
        raise UpdateRejected(f"Updating {key} to {value} is rejected: alpha is a number from 0.")
