"""Mamba2's scan, which computes the state at any tokens that it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sglang_marconi.forward.layers import RECURRENT
from sglang_marconi.forward.plan import PassPlan, current


def take_scanned(original: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Around ``mamba_chunk_scan_combined``, which may have been asked for states already."""
    plan = current()
    if plan is None or not plan.covers(x.shape[1]):
        return original(x, *args, **kwargs)
    asked = kwargs.get("track_end_locs")
    before = 0 if asked is None else len(asked)
    ours = plan.rows_of_places(x), plan.integers("ends of places", lambda: plan.ends, x)
    if before:
        sequences, ends = kwargs["track_seq_idx"], asked
        assert ends is not None
        ours = (
            torch.cat([sequences, ours[0].to(sequences.dtype)]),
            torch.cat([ends, ours[1].to(ends.dtype)]),
        )
    kwargs.update(track_seq_idx=ours[0], track_end_locs=ours[1], return_track_states=True)
    intermediate, last, states = original(x, *args, **kwargs)
    plan.put(RECURRENT, plan.layer_id, states[0, before:], plan.layer.temporal)
    return intermediate, last, states[:, :before] if before else None


def take_in_rounds(original: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Around ``_track_states_at``, which the scan computes states at tokens with.

    Its kernel also runs over what is between two tokens asked for, and reads in front of its inputs
    where the second one belongs to the first sequence. So no two of a sequence are asked for at a
    time.
    """
    plan = current()
    _, x, *_ = inputs
    if plan is None or not plan.covers(x.shape[1]):
        return original(*inputs)
    *rest, sequences, ends = inputs
    before = len(ends) - len(plan.places)
    rounds = _rounds(plan, before)
    if len(rounds) == 1:
        return original(*inputs)
    states = None
    for number, members in enumerate(rounds):
        at = plan.integers(f"round {number} of {before}", partial(list, members), ends)
        some = original(*rest, sequences[at], ends[at])
        if states is None:
            states = some.new_empty(1, len(ends), *some.shape[2:])
        states[:, at] = some
    assert states is not None
    return states


def _rounds(plan: PassPlan, before: int) -> list[list[int]]:
    """Numbers of what is asked for, in lists that have each row once and in order.

    ``before``: those of SGLang itself come first, one of a row at most.
    """
    rounds: list[list[int]] = [list(range(before))] if before else []
    nth = 0
    for number, (row, _) in enumerate(plan.places):
        nth = nth + 1 if number and plan.places[number - 1].row == row else 0
        at = nth + bool(before)
        if at == len(rounds):
            rounds.append([])
        rounds[at].append(before + number)
    return rounds
