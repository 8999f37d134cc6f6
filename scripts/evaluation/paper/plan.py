"""The runs of the evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sglang_marconi.cost import ModelCost
from sglang_marconi.cost.latency import LatencyProfile
from sglang_marconi.cost.paper import paper_cost
from sglang_marconi.simulate.batch import Job
from sglang_marconi.simulate.cache import Budget
from sglang_marconi.simulate.policies import UNLIMITED
from sglang_marconi.simulate.run import Setup

from evaluation.paper.naming import Model, TraceName, model_name
from evaluation.paper.workloads import BASE, Grid

BASELINES = ("vllm+", "sglang+")
OURS = ("marconi", "auto")
POLICIES = (*BASELINES, *OURS)

FLOPS_PER_SECOND = 1e14
"""What prefill is assumed to run at, where no latency profile is given."""

_HIDDEN = 4096
_LONGEST = 32_768
_STEP = 512
_GB = 10**9


def jobs(grid: Grid, names: Sequence[str], latency: LatencyProfile | None) -> list[Job]:
    """Every run once; ``names`` are those of the traces."""
    compared = _compared(grid, names)
    wanted = [
        *_sweep(grid, names),
        *((compared, policy, BASE, size) for size in grid.contention for policy in POLICIES),
        *(
            (compared, policy, model, grid.compared_size)
            for model in (*grid.mixes, *grid.state_dims)
            for policy in POLICIES
        ),
    ]
    return [
        Job(_setup(name, policy, model, size, latency), name)
        for name, policy, model, size in dict.fromkeys(wanted)
    ]


def assumed_latency(cost: ModelCost) -> LatencyProfile:
    """Seconds as prefill from an empty context takes at `FLOPS_PER_SECOND`, and nothing else."""
    counts = range(0, _LONGEST + 1, _STEP)
    return LatencyProfile([(n, cost.prefill_flops(0, n) / FLOPS_PER_SECOND) for n in counts])


def cost_of(model: Model) -> ModelCost:
    """What a model costs, as the paper accounts it."""
    return paper_cost(
        attention_layers=model.attention,
        mamba_layers=model.ssm,
        mlp_layers=model.mlp,
        hidden=_HIDDEN,
        state_dim=model.state_dim,
    )


def _sweep(grid: Grid, names: Iterable[str]) -> Iterator[tuple[str, str, Model, float]]:
    everything = sorted({size for sweep in grid.sweeps.values() for size in sweep.sizes})
    for name in names:
        sweep = grid.sweeps.get(TraceName.parse(name).workload)
        # A cache of no bytes serves as if there was none.
        yield name, "sglang+", BASE, 0.0
        yield name, UNLIMITED, BASE, 0.0
        for size in sweep.sizes if sweep else everything:
            for policy in POLICIES:
                yield name, policy, BASE, size


def _compared(grid: Grid, names: Sequence[str]) -> str:
    """The trace that models are compared on: the grid's, or else the most like it."""
    if grid.compared_name() in names:
        return grid.compared_name()

    def distance(name: str) -> tuple[bool, float, float]:
        parsed = TraceName.parse(name)
        return (
            parsed.workload != "swebench",
            abs((parsed.rate or 0.0) - grid.compared_rate),
            abs((parsed.gap or 0.0) - grid.compared_gap),
        )

    return min(names, key=distance)


def _setup(
    name: str, policy: str, model: Model, gigabytes: float, latency: LatencyProfile | None
) -> Setup:
    cost = cost_of(model)
    return Setup(
        trace=name,
        policy=policy,
        model=model_name(model, profile=latency is not None),
        cost=cost,
        budget=Budget(int(gigabytes * _GB)),
        latency=latency or assumed_latency(cost),
    )
