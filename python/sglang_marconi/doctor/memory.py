"""How a server would divide a device's memory, as far as it is known before it loads a model.

What SGLang takes for itself while it starts is not known, so a server has somewhat less.
"""

from __future__ import annotations

from typing import NamedTuple

from sglang_marconi import units
from sglang_marconi.compatibility import UnsupportedConfiguration
from sglang_marconi.cost import ModelCost
from sglang_marconi.cost.sglang_pools import divide_pools
from sglang_marconi.doctor.findings import Finding
from sglang_marconi.doctor.options import SETTINGS_REMEDY
from sglang_marconi.settings.schema import Settings

_MORE_MEMORY = (
    "raise --mem-fraction-static, free memory on the device, or divide the model over more ranks"
)


class Plan(NamedTuple):
    """What SGLang divides memory by.

    Attributes:
        free_bytes: of the device, before the model is loaded; ``None``: not known.
        weight_bytes: of one rank.
        fraction: ``--mem-fraction-static``: the share for weights and pools.
        ratio: ``--mamba-full-memory-ratio``.
        state_slots: ``--max-mamba-cache-size``.
        max_tokens: ``--max-total-tokens``.
        slots_per_request: state slots for which SGLang admits one running request.
        slots_in_use: state slots that a running request takes.
        max_requests: ``--max-running-requests``.
    """

    free_bytes: int | None
    weight_bytes: int
    fraction: float
    ratio: float
    state_slots: int | None
    max_tokens: int | None
    slots_per_request: int
    slots_in_use: int
    max_requests: int | None = None


def memory_finding(plan: Plan, cost: ModelCost, settings: Settings) -> Finding:
    """State slots, checkpoints, tokens of KV and requests at a time."""
    if plan.free_bytes is None:
        return Finding(
            "memory",
            "ok",
            "unknown without the device it will run on",
            "`sglang-marconi explain MODEL --budget 40GB` says what fits",
        )
    room = int(plan.free_bytes * plan.fraction) - plan.weight_bytes
    basis = (
        f"{units.byte_size(plan.free_bytes)} free, --mem-fraction-static {plan.fraction:g}, "
        f"about {units.byte_size(plan.weight_bytes)} of weights"
    )
    if room <= 0:
        return Finding("memory", "problem", f"{basis}: nothing is left for a cache", _MORE_MEMORY)
    pools = divide_pools(
        room,
        cost,
        ratio=plan.ratio,
        state_slots=plan.state_slots,
        max_tokens=plan.max_tokens,
    )
    slots = pools.state_slots or 0
    requests = _limited(slots // plan.slots_per_request, plan)
    if requests == 0 or pools.kv_tokens == 0:
        return Finding(
            "memory",
            "problem",
            f"{basis}: {slots} state slots and {pools.kv_tokens} tokens of KV serve no request",
            _MORE_MEMORY,
        )
    states = (
        f"{units.count(slots)} state slots, for checkpoints but for the {plan.slots_in_use} that "
        "each running request takes"
    )
    if settings.has_store:
        try:
            states, requests = _with_store(plan, slots, requests, cost, settings)
        except UnsupportedConfiguration as error:
            return Finding("memory", "problem", f"{basis}: {error}", SETTINGS_REMEDY)
    tokens = "no KV" if pools.kv_tokens is None else f"{units.count(pools.kv_tokens)} tokens of KV"
    return Finding(
        "memory",
        "ok",
        f"{basis}: at most about {states}; {tokens}; {units.count(requests)} requests at a time",
    )


def _with_store(
    plan: Plan, slots: int, requests: int, cost: ModelCost, settings: Settings
) -> tuple[str, int]:
    """What becomes of the slots where checkpoints have a store of their own, rounding aside.

    Raises:
        UnsupportedConfiguration: the store leaves too little for requests.
    """
    from sglang_marconi.cache.memory_split import SlotUse, divide

    use = SlotUse(slots, cost.state_bytes, requests, plan.slots_in_use)
    split = divide(use, settings.checkpoint_memory)
    smallest = cost.encoded_state_bytes(settings.encoding)
    states = (
        f"{units.count(split.active_slots)} state slots for running requests, "
        f"{units.byte_size(split.store_bytes)} for {units.count(split.store_bytes // smallest)} "
        f"checkpoints ({settings.encoding})"
    )
    if settings.host_bytes:
        states += f" and host memory for {units.count(settings.host_bytes // smallest)} more"
    return states, min(requests, split.active_slots // plan.slots_in_use)


def _limited(requests: int, plan: Plan) -> int:
    return requests if plan.max_requests is None else min(requests, plan.max_requests)
