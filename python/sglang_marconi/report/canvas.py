"""What all plots share: a grid of panels, a legend below it, text as it is written."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullLocator

from sglang_marconi import units
from sglang_marconi.report.groups import ordered_budgets
from sglang_marconi.report.looks import Look, Looks

GB = 1e9

_WIDTH = 7.5
_LONE_HEIGHT = 3.2
# Of headings, and of a row of the legend, in inches.
_AROUND = 0.7
_LEGEND_ROW = 0.2
# How many characters of the legend fit side by side at that width, and how many of them the
# sample before a name takes up.
_LEGEND = 84
_SAMPLE = 7


def panels(
    number: int, *, columns: int = 2, height: float = 2.4, sharex: bool = False, sharey: bool = True
) -> tuple[Figure, Sequence[Any]]:
    """A white figure and its panels; ``height`` is that of a row, in inches."""
    columns = min(number, columns)
    rows = math.ceil(number / columns)
    size = _WIDTH, _AROUND + (_LONE_HEIGHT if number == 1 else height * rows)
    layout = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07)
    figure = Figure(figsize=size, dpi=150, layout=layout, facecolor="white")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    used, unused = grid.flat[:number], grid.flat[number:]
    for axes in unused:
        axes.remove()
    for axes in used:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.tick_params(labelbottom=True)
    return figure, list(used)


def heading(figure: Figure, *lines: str) -> None:
    lines = tuple(label(line, 70) for line in lines)
    figure.suptitle("\n".join(lines), x=0.01, horizontalalignment="left", fontsize=11)


def title(axes: Any, *lines: str) -> None:
    longest = 76 // axes.get_gridspec().ncols
    text = "\n".join(label(line, longest) for line in lines)
    axes.set_title(text, fontsize=10, fontweight="bold", loc="left")


def y_label(grid: Sequence[Any], text: str) -> None:
    """Labels the panels of the first column, where all share their y axis."""
    for axes in grid:
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(text)


def x_label(grid: Sequence[Any], text: str) -> None:
    """Labels the lowest panel of each column, where all share their x axis."""
    columns = grid[0].get_gridspec().ncols
    for axes in grid[-columns:]:
        axes.set_xlabel(text)


def percent_axis(axes: Any) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.3g} %"))


def line_style(look: Look, *, dashed: bool = False) -> dict[str, Any]:
    return {
        "color": look.colour,
        "marker": look.marker,
        "markersize": 6,
        "linestyle": "--" if dashed else "-",
        "linewidth": 1.8,
    }


def policy_legend(figure: Figure, handles: Mapping[str, Any], looks: Looks) -> None:
    """A legend of the policies that have a handle, in the order of looks."""
    shown = [policy for policy in looks if policy in handles]
    legend(figure, [handles[policy] for policy in shown], shown)


def legend(figure: Figure, handles: Iterable[Any], names: Iterable[str]) -> None:
    """A legend below all panels, in as many columns as fit."""
    texts = [label(name, _LEGEND - _SAMPLE) for name in names]
    width = max(map(len, texts)) + _SAMPLE
    columns = min(len(texts), _LEGEND // width)
    place = "outside lower center"
    rows = math.ceil(len(texts) / columns)
    figure.set_figheight(figure.get_figheight() + rows * _LEGEND_ROW)
    figure.legend(list(handles), texts, loc=place, ncols=columns, frameon=False, fontsize=10)


def label(text: str, longest: int) -> str:
    """One line of text as it is: a long one is cut, and dollar signs start no formula."""
    line = " ".join(text.split())
    return (line if len(line) <= longest else line[: longest - 1] + "…").replace("$", r"\$")


def label_gap(axes: Any) -> float:
    """The share of a panel's width from one tick to the next that their labels need."""
    return 0.1 * float(axes.get_gridspec().ncols)


def budget_axis(axes: Any, budgets: Iterable[int | None]) -> None:
    """An axis in GB, logarithmic where the budgets span more than a factor of four.

    Its ticks are the budgets themselves: the first, the last, and what has room between them.
    """
    bounded = [budget for budget in ordered_budgets(budgets) if budget is not None]
    if not bounded:
        axes.set_xlabel(units.NO_BUDGET)
        axes.set_xticks([])
        return
    axes.set_xlabel("cache budget")
    first, last = bounded[0], bounded[-1]
    log = 0 < 4 * first < last
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    gap = label_gap(axes)
    ticks = [first]
    taken = 0.0
    for budget in bounded[1:-1]:
        place = _place(budget, first, last, log=log)
        if taken + gap <= place <= 1 - gap:
            ticks.append(budget)
            taken = place
    if last != first:
        ticks.append(last)
    axes.set_xticks([tick / GB for tick in ticks], [units.byte_size(tick) for tick in ticks])


def _place(budget: int, first: int, last: int, *, log: bool) -> float:
    """How far along the axis a budget is, from 0 to 1."""
    if log:
        return math.log(budget / first) / math.log(last / first)
    return (budget - first) / (last - first)
