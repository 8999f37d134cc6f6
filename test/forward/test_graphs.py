"""A pass that leaves states is not replayed from a graph."""

from __future__ import annotations

import pytest
import torch
from sglang_marconi.forward.graphs import can_run_graph
from sglang_marconi.forward.plan import PassPlan, Place, Row, carried_out

PLAN = PassPlan([Row(3, False)], [Place(0, 1)], [torch.tensor([1])])


@pytest.mark.parametrize(("plan", "runs"), [(PLAN, False), (None, True)])
def test_graphs(plan: PassPlan | None, runs: bool) -> None:
    with carried_out(plan):
        assert can_run_graph(lambda *_: True, None, None) == runs
        assert not can_run_graph(lambda *_: False, None, None)
