"""The workloads of the evaluation, and at what sizes and rates they are replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from numpy.random import Generator
from sglang_marconi.traces.generators import Geometric, Lmsys, LogNormal, Shape, ShareGpt, SweBench
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.sources import Trace

from evaluation.paper.naming import Model, trace_name

BASE = Model(attention=4, ssm=24, mlp=28, state_dim=128)
"""The paper's 7B hybrid (the artifact's policy_exploration.py)."""

# The paper's figure 12a has these (SSM, attention) layers, and (0, 36), which has no states for
# the eviction policies to weigh. It says nothing of MLP layers.
MIXES = (
    Model(12, 24, 28, 128),
    Model(7, 28, 28, 128),
    Model(5, 30, 28, 128),
    Model(4, 32, 28, 128),
)
STATE_DIMS = tuple(BASE._replace(state_dim=dim) for dim in (16, 32, 64, 128))

LEAST_TURNS = 10
"""The artifact keeps chats of so many turns or more (utils/generate_trace.py)."""


class FromTen(NamedTuple):
    """A geometric number, given that it is at least `LEAST_TURNS`: it has no memory."""

    mean: float

    def draw(self, random: Generator) -> int:
        return LEAST_TURNS - 1 + Geometric(self.mean).draw(random)


class Sweep(NamedTuple):
    """One workload's cache sizes in GB (10^9 bytes), rates and turn gaps.

    ``rates`` are sessions a second; ``gaps`` are seconds between turns, none for chats, whose
    gaps follow from what is typed. All rates are run at ``gap``, all gaps at ``rate``.
    """

    sizes: tuple[float, ...]
    rates: tuple[float, ...]
    gaps: tuple[float, ...] = ()
    gap: float | None = None
    rate: float | None = None

    def patterns(self) -> list[tuple[float, float | None]]:
        """Pairs of a rate and a gap."""
        swept = [(self.rate, gap) for gap in self.gaps if gap != self.gap]
        return [(rate, self.gap) for rate in self.rates] + [
            (rate, gap) for rate, gap in swept if rate is not None
        ]


class Grid(NamedTuple):
    """What is replayed: sweeps by workload, and what the models are compared on.

    ``contention`` are cache sizes in GB for the trace with ``compared_rate`` and
    ``compared_gap`` of SWE-bench, on which the models are compared at ``compared_size``.
    """

    sessions: int
    sweeps: Mapping[str, Sweep]
    mixes: tuple[Model, ...]
    state_dims: tuple[Model, ...]
    contention: tuple[float, ...]
    compared_rate: float
    compared_gap: float
    compared_size: float

    def compared_name(self) -> str:
        return trace_name("swebench", self.compared_rate, self.compared_gap, self.sessions)


_RATES = (0.5, 1.0, 2.0, 5.0)

FULL = Grid(
    sessions=100,
    sweeps={
        "swebench": Sweep((60, 80, 100), _RATES, (5.0, 7.5, 10.0), gap=7.5, rate=5.0),
        "sharegpt": Sweep((1, 2, 3, 4, 5, 10), _RATES),
        "lmsys": Sweep((1, 2, 3, 4, 5), _RATES),
    },
    mixes=MIXES,
    state_dims=STATE_DIMS,
    contention=(60, 80, 100, 120, 140),
    compared_rate=5.0,
    compared_gap=10.0,
    compared_size=60,
)
"""Of the artifact's grid its cache sizes but for 40 GB on SWE-bench, its rates but for 0.25 and
10, and of its pairs of rate and gap on SWE-bench those with one gap or one rate."""

QUICK = Grid(
    sessions=12,
    sweeps={
        "swebench": Sweep((4, 8), (1.0, 5.0), (7.5, 10.0), gap=7.5, rate=5.0),
        "sharegpt": Sweep((0.5, 1), (1.0, 5.0)),
        "lmsys": Sweep((0.3, 0.6), (1.0, 5.0)),
    },
    mixes=(MIXES[0], MIXES[3]),
    state_dims=(STATE_DIMS[0], STATE_DIMS[3]),
    contention=(4, 8, 16),
    compared_rate=5.0,
    compared_gap=10.0,
    compared_size=8,
)
"""Small enough to try: sessions and sizes are about a tenth of the full grid's."""


def generated(grid: Grid) -> list[Trace]:
    """The traces of a grid, generated; those of a workload differ only in when turns arrive."""
    traces = []
    for workload, sweep in grid.sweeps.items():
        patterns = sweep.patterns()
        first_rate, first_gap = patterns[0]
        # The texts take most of the memory, and all traces of a workload can share them.
        requests = _shape(workload, first_rate, first_gap, grid.sessions).requests()
        for rate, gap in patterns:
            slower = gap / first_gap if gap is not None and first_gap is not None else 1.0
            traces.append(
                Trace(
                    trace_name(workload, rate, gap, grid.sessions),
                    _retimed(requests, starts=first_rate / rate, gaps=slower),
                )
            )
    return traces


def _retimed(requests: Sequence[TraceRequest], *, starts: float, gaps: float) -> list[TraceRequest]:
    """The same requests with the starts of sessions and the gaps within them stretched."""
    first = {request.session_id: request.arrival for request in requests if request.turn == 0}
    moved = []
    for request in requests:
        start = first[request.session_id]
        arrival = start * starts + (request.arrival - start) * gaps
        moved.append(request._replace(arrival=arrival))
    return sorted(moved, key=lambda request: request.arrival)


def _shape(workload: str, rate: float, gap: float | None, sessions: int) -> Shape:
    if workload == "lmsys":
        return Lmsys(turns=FromTen(2.0), sessions_per_second=rate, sessions=sessions)
    if workload == "sharegpt":
        return ShareGpt(turns=FromTen(3.5), sessions_per_second=rate, sessions=sessions)
    assert gap is not None
    # Two choices by the paper's figures. In 12b, vLLM+ has a token hit rate of 0.9 %: sessions
    # share no long prompt. In 11, 140 GB are not quite enough for 100 sessions: they are longer
    # than the generator's defaults, which 60 GB all but hold.
    return SweBench(
        system_tokens=0,
        turns=LogNormal(30.0, 0.5),
        message=LogNormal(2000.0, 1.2),
        mean_turn_gap=gap,
        sessions_per_second=rate,
        sessions=sessions,
    )
