"""Zaya's compressed convolutional attention: two windows, over queries and keys and over inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sglang_marconi.forward.plan import current
from sglang_marconi.forward.windows import put_windows


def take_convolved(
    qk: Tensor,
    hidden_states: Tensor,
    _conv_qk: Any,
    conv_state: Tensor,
    prev_hs_state: Tensor,
    slot_ids: Sequence[int],
    *_others: Any,
) -> None:
    """Before ``cca_extend``: what its convolutions see next, and the last input, for the values."""
    plan = current()
    if plan is None or not plan.covers(len(qk)):
        return
    slots = plan.integers("slots of rows", lambda: slot_ids[: len(plan.rows)], qk)
    put_windows(plan, qk.__getitem__, lambda rows: conv_state[slots[rows]], 0)
    put_windows(plan, hidden_states.__getitem__, lambda rows: prev_hs_state[slots[rows]], 1)
