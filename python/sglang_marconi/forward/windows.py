"""The windows of causal convolutions: the last inputs before a token, as many as a window holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sglang_marconi.forward.layers import window
from sglang_marconi.forward.plan import PassPlan, current


def windows_at(
    plan: PassPlan, inputs: Callable[[Tensor], Tensor], before: Callable[[Tensor], Tensor]
) -> Tensor:
    """The windows at the places of a plan.

    Args:
        inputs: for int64 ``[n]``, tokens of the pass, their inputs ``[n, channels]``.
        before: for int64 ``[places]``, rows of the pass, the windows ``[places, channels, width]``
            that they go on from, as they are before the pass. Those of rows that start anew are
            not used.

    Returns:
        ``[places, channels, width]`` in the type of the inputs, with storage of its own.
    """
    held = before(plan.rows_of_places(plan.slots))
    width = held.shape[-1]
    tokens = plan.integers(
        f"inputs of windows of {width}",
        lambda: [max(0, at) for end in plan.ends for at in range(end - width, end)],
        held,
    )
    taken = inputs(tokens).view(len(plan.places), width, -1).transpose(1, 2).contiguous()
    for number, (row, count) in enumerate(plan.places):
        if count < width:
            older = taken[number, :, : width - count]
            if plan.rows[row].resumes:
                older.copy_(held[number, :, count:])
            else:
                older.zero_()
    return taken


def put_windows(
    plan: PassPlan,
    inputs: Callable[[Tensor], Tensor],
    before: Callable[[Tensor], Tensor],
    number: int = 0,
) -> None:
    """Write one of the windows of the layer that is being computed; see `windows_at`."""
    into = plan.layer.conv[number]
    taken = windows_at(plan, inputs, before)
    # KDA keeps them with the channels last.
    as_kept = taken if taken.shape[1:] == into.shape[1:] else taken.transpose(1, 2)
    plan.put(window(number), plan.layer_id, as_kept, into)


def take_windows(original: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Around ``causal_conv1d_fn``, which there are two of, one of which may call the other.

    ``conv_states`` may be a copy of those of the rows, with ``cache_indices`` to match.
    """
    plan = current()
    if plan is None:
        return original(x, *args, **kwargs)
    states: Tensor | None = kwargs.get("conv_states")
    slots: Tensor | None = kwargs.get("cache_indices")
    wanted = plan.lacks(window(), plan.layer_id) and plan.covers(x.shape[-1])
    if wanted and states is not None and slots is not None:
        put_windows(plan, x.t().__getitem__, _of_rows(states, slots))
    return original(x, *args, **kwargs)


def take_gated_windows(
    gate: Tensor,
    _gate_of_output: Tensor,
    x: Tensor,
    _weight: Tensor,
    states: Tensor,
    _query_start_loc: Tensor,
    slots: Tensor,
    *_others: Any,
) -> None:
    """Before ``fused_lfm_short_conv_prefill``: the window has the products of gates and inputs."""
    plan = current()
    if plan is not None and plan.covers(len(x)):
        put_windows(plan, lambda at: gate[at] * x[at], _of_rows(states, slots))


def _of_rows(states: Tensor, slots: Tensor) -> Callable[[Tensor], Tensor]:
    """What given rows have in ``states``."""
    return lambda rows: states[slots[rows].long()]
