"""A panel for each budget, in it a curve for each policy."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from sglang_marconi import units
from sglang_marconi.records import RequestRecord
from sglang_marconi.report import canvas
from sglang_marconi.report.groups import by_budget, by_policy, panel_budgets, setting_of
from sglang_marconi.report.looks import Looks
from sglang_marconi.report.series import Curve


def curves_by_budget(
    requests: Sequence[RequestRecord],
    looks: Looks,
    curve_of: Callable[[Sequence[RequestRecord]], Curve],
) -> tuple[Figure, Sequence[Any]]:
    """For one trace and model, the steps of each run at one of at most four budgets.

    Where budgets have panels, runs without one are dashed lines in each.
    """
    budgets = by_budget(requests)
    shown = panel_budgets(budgets)
    figure, grid = canvas.panels(len(shown), sharex=True)
    canvas.heading(figure, *setting_of(requests[0]))
    lines: dict[str, Any] = {}
    for budget in dict.fromkeys((*shown, None)):
        dashed = budget not in shown
        for policy, of_policy in by_policy(budgets.get(budget, ()), looks).items():
            curve = curve_of(of_policy)
            style = canvas.line_style(looks[policy], dashed=dashed)
            # Each policy's markers start elsewhere, so that they are seen where lines coincide.
            first_marker = 0.03 * list(looks).index(policy) % 0.25
            for axes, panel in zip(grid, shown, strict=True):
                if dashed or panel == budget:
                    (line,) = axes.step(
                        *curve, where="post", markevery=(first_marker, 0.25), **style
                    )
                    lines.setdefault(policy, line)
    for axes, budget in zip(grid, shown, strict=True):
        canvas.title(axes, units.budget_title(budget))
    canvas.policy_legend(figure, lines, looks)
    return figure, grid
