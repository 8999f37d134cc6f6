"""Plot of the FLOPs that hits save."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from sglang_marconi import units
from sglang_marconi.records import RunRecord
from sglang_marconi.report import canvas
from sglang_marconi.report.groups import by_budget, by_policy, by_setting
from sglang_marconi.report.looks import Looks

# Of the room of one budget.
_WIDEST_BAR = 0.25
# More labels than that would touch side by side.
_MOST_LEVEL_LABELS = 9


def saved_flops(runs: Sequence[RunRecord], looks: Looks) -> Figure:
    """A panel for each trace and model, in it a group of bars for each budget.

    Each panel has its own unit, since models differ by orders of magnitude.
    """
    settings = by_setting(runs)
    figure, grid = canvas.panels(len(settings), columns=1, sharey=False)
    bars: dict[str, Any] = {}
    for axes, (setting, group) in zip(grid, settings.items(), strict=True):
        canvas.title(axes, *setting)
        budgets = by_budget(group)
        size, unit = units.flops_unit(max(run.flops_saved for run in group))
        most = max(len(by_policy(of_budget, looks)) for of_budget in budgets.values())
        width = min(0.8 / most, _WIDEST_BAR)
        for middle, of_budget in enumerate(budgets.values()):
            policies = by_policy(of_budget, looks)
            left = middle - (len(policies) - 1) / 2 * width
            for place, (policy, (run,)) in enumerate(policies.items()):
                bars[policy] = axes.bar(
                    left + place * width,
                    run.flops_saved / size,
                    width=0.92 * width,
                    color=looks[policy].colour,
                )
        names = [units.budget_size(budget) for budget in budgets]
        rotation = 0 if len(names) <= _MOST_LEVEL_LABELS else 45
        axes.set_xticks(range(len(names)), names, rotation=rotation)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_xlabel("cache budget")
        axes.set_ylabel(f"saved ({unit})")
    canvas.policy_legend(figure, bars, looks)
    return figure
