"""The plots of the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from sglang_marconi.report import canvas
from sglang_marconi.report.looks import Looks, looks

from evaluation.paper.gains import Spread
from evaluation.paper.plan import OURS, POLICIES
from evaluation.paper.sweeps import Sweep

_PAPER_COLOUR = "#000000"
_ROW_GAP = 0.34


class Strip(NamedTuple):
    """A panel: for each workload the values of each policy, and the paper's one number."""

    title: str
    label: str
    spreads: Mapping[str, Mapping[str, Spread]]
    paper: Mapping[str, float]
    neutral: float
    """Where neither is better."""
    times: bool = False
    """Values are ratios, on a logarithmic axis; else they are shares."""


def strips(panels: Sequence[Strip], paper_label: str) -> Figure:
    """Each value is a dot, the median a large mark."""
    figure, grid = canvas.panels(len(panels), height=2.6, sharey=True)
    shown = looks(OURS)
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid, panels, strict=True):
        canvas.title(axes, panel.title)
        axes.set_xlabel(panel.label)
        _strip(axes, panel, shown, handles)
    names = {**{policy: policy for policy in shown}, "paper": paper_label}
    known = [key for key in names if key in handles]
    canvas.legend(figure, [handles[key] for key in known], [names[key] for key in known])
    return figure


def _strip(axes: Any, panel: Strip, shown: Looks, handles: dict[str, Any]) -> None:
    workloads = list(panel.spreads)
    for row, workload in enumerate(workloads):
        for number, (policy, spread) in enumerate(panel.spreads[workload].items()):
            at = row + (number - 0.5) * _ROW_GAP
            look = shown[policy]
            axes.plot([spread.least, spread.best], [at, at], color=look.colour, linewidth=1)
            dots = {"color": look.colour, "linestyle": "none"}
            axes.plot(spread.values, [at] * len(spread.values), ".", alpha=0.35, **dots)
            (handles[policy],) = axes.plot(
                [spread.median], [at], look.marker, markersize=8, markeredgecolor="white", **dots
            )
        if workload in panel.paper:
            (handles["paper"],) = axes.plot(
                [panel.paper[workload]] * 2,
                [row - 0.38, row + 0.38],
                color=_PAPER_COLOUR,
                linewidth=2,
            )
    axes.set_yticks(range(len(workloads)), [canvas.label(name, 14) for name in workloads])
    axes.set_ylim(len(workloads) - 0.5, -0.5)
    axes.axvline(panel.neutral, color="#888888", linewidth=1, linestyle=":")
    axes.grid(axis="x", alpha=0.3)
    axes.grid(visible=False, axis="y")
    if panel.times:
        axes.set_xscale("log")
        ticks = [1, 2, 5, 10, 20, 50]
        axes.set_xticks(ticks, [f"{tick}×" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.3g} %"))


def beside(sweep: Sweep) -> Figure:
    """The paper's token hit rates on the left, ours on the right."""
    figure, grid = canvas.panels(2, height=2.6)
    shown = looks(POLICIES)
    handles: dict[str, Any] = {}
    paper = sweep.axis.paper

    def ours(policy: str) -> list[float]:
        return [found[policy].token_hit_rate for found in sweep.cells.values()]

    _lines(grid[0], paper.points, paper.rates.get, shown, handles)
    _lines(grid[1], list(sweep.cells), ours, shown, handles)
    canvas.title(grid[0], "the paper")
    canvas.title(grid[1], "here")
    for axes in grid:
        axes.set_xlabel(sweep.axis.label)
        axes.set_ylim(bottom=0)
    canvas.y_label(grid, "token hit rate")
    canvas.percent_axis(grid[0])
    canvas.policy_legend(figure, handles, shown)
    return figure


def _lines(
    axes: Any,
    points: Sequence[str],
    rates: Callable[[str], Sequence[float] | None],
    shown: Looks,
    handles: dict[str, Any],
) -> None:
    for policy, look in shown.items():
        values = rates(policy)
        if values is not None:
            (line,) = axes.plot(range(len(points)), values, **canvas.line_style(look))
            handles.setdefault(policy, line)
    axes.set_xticks(range(len(points)), points)
    axes.set_xlim(-0.3, len(points) - 0.7)
