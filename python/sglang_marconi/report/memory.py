"""Plot of what the caches hold over time."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from sglang_marconi import units
from sglang_marconi.records import RequestRecord
from sglang_marconi.report import canvas
from sglang_marconi.report.groups import by_policy, setting_of
from sglang_marconi.report.looks import KV_COLOUR, STATES_COLOUR, Looks
from sglang_marconi.report.series import holdings


def memory_over_time(requests: Sequence[RequestRecord], looks: Looks) -> Figure:
    """For one trace, model and budget, a panel for each policy whose bytes were measured.

    In it the bytes of states and, on top of them, of KV; the budget is a line above both.
    """
    held = {
        policy: measured
        for policy, of_policy in by_policy(requests, looks).items()
        if (measured := holdings(of_policy)) is not None
    }
    budget = requests[0].budget_bytes
    figure, grid = canvas.panels(len(held), height=1.7, sharex=True)
    canvas.heading(figure, *setting_of(requests[0]), units.budget_title(budget))
    time_size, time_unit = units.time_unit(max(record.arrival for record in requests))
    most = max((each.states + each.kv).max() for each in held.values())
    size, unit = units.byte_unit(max(most, budget or 0))
    for axes, (policy, each) in zip(grid, held.items(), strict=True):
        canvas.title(axes, policy)
        axes.stackplot(
            each.time / time_size,
            each.states / size,
            each.kv / size,
            colors=(STATES_COLOUR, KV_COLOUR),
            step="post",
        )
        if budget is not None:
            axes.axhline(budget / size, color="black", linestyle="--", linewidth=1.2)
        axes.margins(x=0)
    grid[0].set_ylim(bottom=0, top=1.08 * max(most, budget or 0) / size or 1)
    canvas.x_label(grid, f"arrival ({time_unit})")
    canvas.y_label(grid, f"held ({unit})")
    handles = [*grid[0].collections, *grid[0].lines]
    canvas.legend(figure, handles, ["states", "KV", "budget"][: len(handles)])
    return figure
