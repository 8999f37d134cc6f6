"""Plots of token hit rates: by budget, and over time."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from sglang_marconi import units
from sglang_marconi.records import RequestRecord, RunRecord
from sglang_marconi.report import canvas
from sglang_marconi.report.curves import curves_by_budget
from sglang_marconi.report.groups import by_budget, by_policy, by_setting
from sglang_marconi.report.looks import Looks
from sglang_marconi.report.series import Curve, hit_rate_so_far


def hit_rate_by_budget(runs: Sequence[RunRecord], looks: Looks) -> Figure:
    """A panel for each trace and model, in it a line for each policy.

    A run without a budget is a dashed line across the panel.
    """
    settings = by_setting(runs)
    figure, grid = canvas.panels(len(settings))
    lines: dict[str, Any] = {}
    for axes, (setting, group) in zip(grid, settings.items(), strict=True):
        canvas.title(axes, *setting)
        canvas.budget_axis(axes, [run.budget_bytes for run in group])
        for policy, of_policy in by_policy(group, looks).items():
            bounded = []
            for budget, (run,) in by_budget(of_policy).items():
                if budget is None:
                    # Its marker would be cut in half by both edges of the panel.
                    style = canvas.line_style(looks[policy], dashed=True) | {"marker": ""}
                    lines[policy] = axes.axhline(run.token_hit_rate, **style)
                else:
                    bounded.append((budget / canvas.GB, run.token_hit_rate))
            if bounded:
                style = canvas.line_style(looks[policy])
                (lines[policy],) = axes.plot(*zip(*bounded, strict=True), **style)
    _rate_axis(grid, "token hit rate", max(run.token_hit_rate for run in runs))
    canvas.policy_legend(figure, lines, looks)
    return figure


def hit_rate_over_time(requests: Sequence[RequestRecord], looks: Looks) -> Figure:
    """For one trace and model, the token hit rate of all requests up to each time.

    A panel for each of at most four budgets, in it a line for each policy; runs without a budget
    are dashed lines in each panel.
    """
    size, unit = units.time_unit(max(record.arrival for record in requests))

    def curve_of(of_run: Sequence[RequestRecord]) -> Curve:
        curve = hit_rate_so_far(of_run)
        return Curve(curve.x / size, curve.y)

    figure, grid = curves_by_budget(requests, looks, curve_of)
    canvas.x_label(grid, f"arrival ({unit})")
    highest = max(line.get_ydata().max() for axes in grid for line in axes.lines)
    _rate_axis(grid, "token hit rate so far", highest)
    return figure


def _rate_axis(grid: Sequence[Any], text: str, highest: float) -> None:
    """From nothing to a little above the highest rate, so that heights compare."""
    canvas.y_label(grid, text)
    canvas.percent_axis(grid[0])
    grid[0].set_ylim(0, min(1.02, max(1.08 * highest, 0.01)))
