"""Hit rates of `auto` beside every other policy, over traces and budgets, as a Markdown table.

    python scripts/evaluation/compare_policies.py [TRACE_FOLDER] [--out FILE]

simulates one budget for states and KV. Of what TRACE_FOLDER has: the first 600 requests of
``tau_airline.jsonl``, as they are and as a reasoning model's whose reasoning is dropped from the
history; the first 3,000 of ``mooncake_conversation.jsonl``; and ``fleet_a.jsonl.gz``, many
applications on one server, with a model of its own. Then the three generated workloads with their
defaults. Budgets go from where almost nothing fits to where almost all does.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import mean
from typing import NamedTuple

from sglang_marconi.cost import preset
from sglang_marconi.simulate.batch import Job, progress_bar, run_batch
from sglang_marconi.simulate.cache import Budget
from sglang_marconi.simulate.policies import ORACLE
from sglang_marconi.simulate.run import Setup
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.sources import load_trace
from sglang_marconi.traces.tokens import Tokens

_MODEL = "paper-7b"
_FLEET_MODEL = "nemotron-nano-9b-v2"
_BASELINES = ("lru", "sglang+", "marconi:0", "marconi:0.5", "marconi:1", "marconi:2", "marconi")
_POLICIES = (*_BASELINES, "auto", ORACLE)
_HEADINGS = {"marconi": "marconi tuned", "marconi:0": "alpha 0", "marconi:0.5": "alpha 0.5"} | {
    "marconi:1": "alpha 1",
    "marconi:2": "alpha 2",
}
# Below this many points between LRU and the oracle, a share of them says nothing.
_LEAST_DISTANCE = 0.5


class Workload(NamedTuple):
    """What is replayed; budgets in GB (10^9 bytes)."""

    name: str
    requests: Sequence[TraceRequest]
    budgets: Sequence[float]
    model: str = _MODEL


class Cell(NamedTuple):
    """One workload with one budget: token hit rates in %, by policy."""

    workload: str
    budget: float
    rates: dict[str, float]

    @property
    def lead(self) -> float:
        """Points of `auto` above the best of the others that do not know the future."""
        return self.rates["auto"] - max(self.rates[policy] for policy in _BASELINES)

    @property
    def share(self) -> float | None:
        """How much of the way from LRU to the oracle `auto` goes, if there is one."""
        distance = self.rates[ORACLE] - self.rates["lru"]
        if distance < _LEAST_DISTANCE:
            return None
        return (self.rates["auto"] - self.rates["lru"]) / distance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("traces", type=Path, nargs="?", help="a folder with the real traces")
    parser.add_argument("--out", type=Path, help="write there, not to standard output")
    args = parser.parse_args()
    text = as_markdown(measure(list(workloads(args.traces))))
    if args.out:
        args.out.write_text(text)
    else:
        print(text, end="")


def workloads(folder: Path | None) -> Iterator[Workload]:
    """The traces that are at hand, and the generated workloads."""
    if folder is not None:
        yield from _real(folder)
    yield Workload("lmsys", load_trace("lmsys").requests, (0.3, 0.7, 1.5, 3, 6))
    yield Workload("sharegpt", load_trace("sharegpt").requests, (0.5, 1, 2, 5, 10))
    yield Workload("swebench", load_trace("swebench").requests, (3, 10, 30, 60, 120))


def _real(folder: Path) -> Iterator[Workload]:
    airline, mooncake, fleet = (
        folder / name
        for name in ("tau_airline.jsonl", "mooncake_conversation.jsonl", "fleet_a.jsonl.gz")
    )
    if airline.exists():
        name, requests = load_trace(str(airline), limit=600)
        yield Workload(name, requests, (1, 2, 5, 10))
        yield Workload(f"{name}, reasoning dropped", with_reasoning(requests), (2, 5, 10))
    if fleet.exists():
        yield Workload(*load_trace(str(fleet)), (5, 10, 20, 40), _FLEET_MODEL)
    if mooncake.exists():
        yield Workload(*load_trace(str(mooncake), limit=3000), (30, 100, 300, 1000))


def with_reasoning(requests: Sequence[TraceRequest]) -> list[TraceRequest]:
    """The same as a reasoning model's: prompts stay, as the client leaves its reasoning out.

    Each reply begins with 200 to 600 tokens that occur nowhere else.
    """
    random, fresh = Random(0), 10**7
    reasoned = []
    for request in requests:
        count = random.randint(200, 600)
        reasoning = Tokens.plain(range(fresh, fresh + count))
        reasoned.append(request._replace(reply=reasoning + request.reply, continues=0))
        fresh += count
    return reasoned


def measure(replayed: Sequence[Workload]) -> list[Cell]:
    """Every policy in every cell."""
    places = [(workload, budget) for workload in replayed for budget in workload.budgets]
    jobs = [
        Job(
            Setup(place.name, policy, place.model, preset(place.model), Budget(int(budget * 1e9))),
            place.name,
        )
        for place, budget in places
        for policy in _POLICIES
    ]
    traces = {workload.name: workload.requests for workload in replayed}
    with progress_bar() as progress:
        runs = run_batch(jobs, traces, workers=os.cpu_count() or 1, progress=progress)
        rates = [100 * run.run.token_hit_rate for run in runs]
    return [
        Cell(
            place.name,
            budget,
            dict(zip(_POLICIES, rates[at : at + len(_POLICIES)], strict=True)),
        )
        for (place, budget), at in zip(places, range(0, len(rates), len(_POLICIES)), strict=True)
    ]


def as_markdown(cells: Sequence[Cell]) -> str:
    """The table, and what it comes to."""
    headings = ("workload", "GB", *(_HEADINGS.get(policy, policy) for policy in _POLICIES))
    lines = [
        "# `auto` beside the other policies",
        "",
        f"Token hit rate in %, `{_MODEL}` (`fleet_a`: `{_FLEET_MODEL}`), one budget for",
        "states and KV. Written by `make compare`; simulations, the same on every machine. *Lead*:",
        "points of `auto` above the best of all but `oracle`. *Share*: how far it goes from `lru`",
        f"to `oracle`, where these are at least {_LEAST_DISTANCE} apart. `oracle` knows the",
        "requests to come, for what is kept as well as for what goes; it is no proven bound.",
        "",
        "| " + " | ".join((*headings, "lead", "share")) + " |",
        "|---" * 2 + "|--:" * (len(headings)) + "|",
    ]
    for cell in cells:
        share = "" if cell.share is None else f"{cell.share:.0%}"
        rates = (f"{cell.rates[policy]:.1f}" for policy in _POLICIES)
        row = (cell.workload, f"{cell.budget:g}", *rates, f"{cell.lead:+.1f}", share)
        lines.append("| " + " | ".join(row) + " |")
    shares = [cell.share for cell in cells if cell.share is not None]
    worst = min(cells, key=lambda cell: cell.lead)
    behind = [cell for cell in cells if cell.lead < -0.5]
    lines += [
        "",
        f"Share, mean over {len(shares)} cells: **{mean(shares):.0%}**. Worst lead: "
        f"{worst.lead:+.1f} ({worst.workload}, {worst.budget:g} GB); more than half a point behind "
        f"in {len(behind)} of {len(cells)} cells.",
    ]
    by_workload: dict[str, list[float]] = {cell.workload: [] for cell in cells}
    for cell in cells:
        if cell.share is not None:
            by_workload[cell.workload].append(cell.share)
    lines += [
        "",
        "By workload: "
        + ", ".join(f"{name} {mean(found):.0%}" for name, found in by_workload.items() if found)
        + ".",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
