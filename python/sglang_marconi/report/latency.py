"""Plot of how a latency is distributed."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, MaxNLocator, NullLocator

from sglang_marconi import units
from sglang_marconi.records import RequestRecord
from sglang_marconi.report import canvas
from sglang_marconi.report.curves import curves_by_budget
from sglang_marconi.report.looks import Looks
from sglang_marconi.report.series import Curve, distribution

Latency = Literal["ttft", "tpot"]
LATENCIES: dict[Latency, str] = {"ttft": "time to first token", "tpot": "time per output token"}
# Of the ticks in a decade, from close to far; the first two are the closest.
_DIGITS = ((1, 2, 5), (1, 3))


def latency_distribution(
    requests: Sequence[RequestRecord], looks: Looks, latency: Latency
) -> Figure:
    """For one trace and model, the share of requests that took no longer than each time.

    A panel for each of at most four budgets, in it a line for each policy; runs without a budget
    are dashed lines in each panel. Requests for which it was not measured are left out.
    """
    measured = [record for record in requests if getattr(record, latency) is not None]
    figure, grid = curves_by_budget(measured, looks, partial(_curve, latency))
    # Of a time of zero, a logarithmic axis shows that it is left of all others.
    times = [time for record in measured if (time := getattr(record, latency)) > 0]
    shortest, longest = 0.9 * min(times), 1.1 * max(times)
    grid[0].set_xscale("log")
    grid[0].set_xlim(shortest, longest)
    grid[0].xaxis.set_major_locator(_locator(shortest, longest, canvas.label_gap(grid[0])))
    grid[0].xaxis.set_minor_locator(NullLocator())
    grid[0].xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: units.duration(seconds)))
    canvas.x_label(grid, LATENCIES[latency])
    canvas.y_label(grid, "share of requests")
    canvas.percent_axis(grid[0])
    grid[0].set_ylim(0, 1.02)
    return figure


def _curve(latency: Latency, requests: Sequence[RequestRecord]) -> Curve:
    return distribution(getattr(record, latency) for record in requests)


def _locator(shortest: float, longest: float, gap: float) -> Locator:
    """Ticks at round numbers, at least ``gap`` of the axis apart."""
    if longest < 5 * shortest:
        return MaxNLocator(4)
    first, last = math.log10(shortest), math.log10(longest)
    digits = next(
        (digits for digits in _DIGITS if math.log10(digits[1]) >= gap * (last - first)), (1,)
    )
    decades = range(math.floor(first), math.ceil(last) + 1)
    return FixedLocator([digit * 10.0**decade for decade in decades for digit in digits])
