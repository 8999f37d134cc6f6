"""The figures hold the data of the records: axes are looked into, not pixels."""

from itertools import pairwise
from typing import Any

import pytest
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sglang_marconi.records import RequestRecord
from sglang_marconi.report.hit_rate import hit_rate_by_budget, hit_rate_over_time
from sglang_marconi.report.latency import latency_distribution
from sglang_marconi.report.looks import KV_COLOUR, STATES_COLOUR, looks
from sglang_marconi.report.memory import memory_over_time
from sglang_marconi.report.saved_flops import saved_flops
from support.run_records import GB, request, run

LOOKS = looks(["lru", "marconi", "unlimited", "mine", "a $b$"])
COLOUR = {policy: look.colour for policy, look in LOOKS.items()}


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left").replace("\N{NO-BREAK SPACE}", " ") for axes in figure.axes]


def tick_labels(axis: Any) -> list[str]:
    return [label.get_text().replace("\N{NO-BREAK SPACE}", " ") for label in axis.get_ticklabels()]


def lines(axes: Any) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """The points of each line, by its policy and its style."""
    policies = {colour: policy for policy, colour in COLOUR.items()}
    return {
        (policies[line.get_color()], line.get_linestyle()): [
            (float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        ]
        for line in axes.lines
    }


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def assert_readable(figure: Figure) -> None:
    """No label touches the next one on its axis; the legend and titles are off the panels."""
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= legend.x0
    assert legend.x1 <= figure.bbox.x1
    for axes in figure.axes:
        assert not legend.overlaps(axes.get_tightbbox())
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            boxes = [
                tick.label1.get_window_extent()
                for tick in axis.get_major_ticks()
                if low <= tick.get_loc() <= high and tick.label1.get_visible()
            ]
            assert not any(
                one.overlaps(other)
                for place, one in enumerate(boxes)
                for other in boxes[place + 1 :]
            )


def test_hit_rate_by_budget_has_a_line_for_each_policy_in_order_of_budgets() -> None:
    runs = [
        run("marconi", 4 * GB, token_hit_rate=0.6),
        run("marconi", 2 * GB, token_hit_rate=0.5),
        run("lru", 2 * GB, token_hit_rate=0.3),
        run("lru", 4 * GB, token_hit_rate=0.4),
    ]
    figure = hit_rate_by_budget(runs, LOOKS)
    (axes,) = figure.axes
    assert lines(axes) == {
        ("lru", "-"): [(2.0, 0.3), (4.0, 0.4)],
        ("marconi", "-"): [(2.0, 0.5), (4.0, 0.6)],
    }
    assert axes.get_xscale() == "linear"
    assert tick_labels(axes.xaxis) == ["2 GB", "4 GB"]
    assert axes.get_ylim()[0] == 0
    assert legend_texts(figure) == ["lru", "marconi"]
    assert titles(figure) == ["chat\nhybrid"]
    assert_readable(figure)


def test_budgets_that_span_more_than_four_times_are_on_a_logarithmic_axis() -> None:
    wide = hit_rate_by_budget([run(budget=2 * GB), run(budget=8 * GB + 1)], LOOKS)
    narrow = hit_rate_by_budget([run(budget=2 * GB), run(budget=8 * GB)], LOOKS)
    assert wide.axes[0].get_xscale() == "log"
    assert narrow.axes[0].get_xscale() == "linear"


def test_a_budget_of_nothing_is_drawn() -> None:
    figure = hit_rate_by_budget([run(budget=0, token_hit_rate=0.0), run()], LOOKS)
    assert lines(figure.axes[0]) == {("lru", "-"): [(0.0, 0.0), (5.0, 0.4)]}
    assert_readable(figure)


def test_a_run_without_a_budget_is_a_dashed_line_across() -> None:
    runs = [run("lru", token_hit_rate=0.3), run("unlimited", None, token_hit_rate=0.9)]
    figure = hit_rate_by_budget(runs, LOOKS)
    assert lines(figure.axes[0]) == {
        ("lru", "-"): [(5.0, 0.3)],
        ("unlimited", "--"): [(0.0, 0.9), (1.0, 0.9)],
    }
    assert legend_texts(figure) == ["lru", "unlimited"]


def test_runs_without_any_budget_need_no_ticks() -> None:
    (axes,) = hit_rate_by_budget([run("lru", None), run("marconi", None)], LOOKS).axes
    assert not axes.get_xticks().size
    assert axes.get_xlabel() == "no budget"


def test_hit_rate_by_budget_has_a_panel_for_each_trace_and_model() -> None:
    runs = [
        run(trace="b", token_hit_rate=0.1),
        run(trace="a", model="y", token_hit_rate=0.2),
        run("marconi", trace="a", model="x", token_hit_rate=0.3),
    ]
    figure = hit_rate_by_budget(runs, LOOKS)
    assert titles(figure) == ["a\nx", "a\ny", "b\nhybrid"]
    assert [lines(axes) for axes in figure.axes] == [
        {("marconi", "-"): [(5.0, 0.3)]},
        {("lru", "-"): [(5.0, 0.2)]},
        {("lru", "-"): [(5.0, 0.1)]},
    ]
    assert legend_texts(figure) == ["lru", "marconi"]


@pytest.mark.parametrize("models", [1, 2])
def test_many_budgets_have_labels_that_do_not_touch(models: int) -> None:
    sizes = (1, 1.1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 100)
    runs = [
        run(budget=int(size * GB), model=f"model {model}")
        for size in sizes
        for model in range(models)
    ]
    figure = hit_rate_by_budget(runs, LOOKS)
    assert_readable(figure)
    for axes in figure.axes:
        assert {"1 GB", "100 GB"} <= set(tick_labels(axes.xaxis))
        assert len(lines(axes)["lru", "-"]) == len(sizes)


def over_time(policy: str, budget: int | None, hits: list[int]) -> list[RequestRecord]:
    return [
        request(policy, budget, 600.0 * place, hit_tokens=hit) for place, hit in enumerate(hits)
    ]


def test_hit_rate_over_time_has_a_panel_for_each_budget_and_time_in_a_unit_that_fits() -> None:
    requests = [
        *over_time("lru", 5 * GB, [0, 50]),
        *over_time("marconi", 5 * GB, [0, 100]),
        *over_time("lru", 2 * GB, [0, 0, 30]),
        *over_time("unlimited", None, [20, 100]),
    ]
    figure = hit_rate_over_time(requests, LOOKS)
    assert titles(figure) == ["budget 2 GB", "budget 5 GB"]
    dashed = {("unlimited", "--"): [(0.0, 0.2), (10.0, 0.6)]}
    assert lines(figure.axes[0]) == dashed | {
        ("lru", "-"): [(0.0, 0.0), (10.0, 0.0), (20.0, 0.1)],
    }
    assert lines(figure.axes[1]) == dashed | {
        ("lru", "-"): [(0.0, 0.0), (10.0, 0.25)],
        ("marconi", "-"): [(0.0, 0.0), (10.0, 0.5)],
    }
    assert {line.get_drawstyle() for axes in figure.axes for line in axes.lines} == {"steps-post"}
    assert {axes.get_xlabel() for axes in figure.axes} == {"arrival (min)"}
    assert legend_texts(figure) == ["lru", "marconi", "unlimited"]
    assert_readable(figure)


def test_hit_rate_over_time_has_four_panels_of_many_budgets() -> None:
    requests = [record for size in range(1, 8) for record in over_time("lru", size * GB, [0, size])]
    figure = hit_rate_over_time(requests, LOOKS)
    assert titles(figure) == ["budget 1 GB", "budget 3 GB", "budget 5 GB", "budget 7 GB"]
    # Panels share their axes: the lowest have the label of time, the first in a row that of rates.
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", *2 * ["arrival (min)"]]
    assert [axes.get_ylabel() for axes in figure.axes] == 2 * ["token hit rate so far", ""]
    ends = [lines(axes)["lru", "-"][-1] for axes in figure.axes]
    assert ends == [(10.0, 0.005), (10.0, 0.015), (10.0, 0.025), (10.0, 0.035)]


def test_runs_without_a_budget_have_a_panel_where_there_is_nothing_else() -> None:
    figure = hit_rate_over_time(over_time("lru", None, [0, 50]), LOOKS)
    assert titles(figure) == ["no budget"]
    assert lines(figure.axes[0]) == {("lru", "-"): [(0.0, 0.0), (10.0, 0.25)]}


def held(policy: str, budget: int | None, *parts: tuple[int, int]) -> list[RequestRecord]:
    return [
        request(policy, budget, float(place), state_bytes=states * GB, kv_bytes=kv * GB)
        for place, (states, kv) in enumerate(parts)
    ]


def heights(area: Any) -> set[tuple[float, float]]:
    return {(float(x), float(y)) for x, y in area.get_paths()[0].vertices}


def test_memory_over_time_stacks_kv_on_states_below_the_budget() -> None:
    requests = [
        *held("marconi", 5 * GB, (1, 2), (2, 3), (1, 4)),
        *held("lru", 5 * GB, (1, 1), (2, 1)),
        request("mine"),
    ]
    figure = memory_over_time(requests, LOOKS)
    # Of a policy whose bytes were not measured there is no panel.
    assert titles(figure) == ["lru", "marconi"]
    states, kv = figure.axes[1].collections
    assert [to_hex(area.get_facecolor()[0]).upper() for area in (states, kv)] == [
        STATES_COLOUR,
        KV_COLOUR,
    ]
    assert {(0.0, 1.0), (1.0, 2.0), (2.0, 1.0)} <= heights(states)
    assert {(0.0, 3.0), (1.0, 5.0), (2.0, 5.0)} <= heights(kv)
    # What a cache holds, it holds until the next request.
    assert (1.0, 1.0) in heights(states)
    assert (0.0, 2.0) not in heights(states)
    for axes in figure.axes:
        (budget,) = axes.lines
        assert list(budget.get_ydata()) == [5.0, 5.0]
        assert axes.get_ylim()[1] > 5.0
    assert figure.axes[0].get_ylabel() == "held (GB)"
    assert legend_texts(figure) == ["states", "KV", "budget"]
    assert_readable(figure)


def test_memory_without_a_budget_has_no_budget_line() -> None:
    figure = memory_over_time(held("unlimited", None, (1, 2), (2, 8)), LOOKS)
    assert not figure.axes[0].lines
    assert figure.axes[0].get_ylim()[1] > 10.0
    assert legend_texts(figure) == ["states", "KV"]


def test_saved_flops_are_groups_of_bars_in_a_unit_that_fits() -> None:
    runs = [
        run("marconi", 5 * GB, flops_saved=2.5e18),
        run("lru", 5 * GB, flops_saved=5e17),
        run("lru", 50 * GB, flops_saved=1e18),
        run("unlimited", None, flops_saved=3e18),
    ]
    figure = saved_flops(runs, LOOKS)
    (axes,) = figure.axes
    found = [
        (round(bar.get_x() + bar.get_width() / 2), to_hex(bar.get_facecolor()), bar.get_height())
        for bar in axes.patches
    ]
    assert found == [
        (0, COLOUR["lru"].lower(), 0.5),
        (0, COLOUR["marconi"].lower(), 2.5),
        (1, COLOUR["lru"].lower(), 1.0),
        (2, COLOUR["unlimited"].lower(), 3.0),
    ]
    assert tick_labels(axes.xaxis) == ["5 GB", "50 GB", "no budget"]
    assert axes.get_ylabel() == "saved (EFLOP)"
    first, second = axes.patches[:2]
    assert first.get_x() + first.get_width() <= second.get_x()
    assert_readable(figure)


def test_saved_flops_have_a_panel_and_a_unit_for_each_trace_and_model() -> None:
    runs = [run(flops_saved=2e15), run(model="small", flops_saved=3e12)]
    figure = saved_flops(runs, LOOKS)
    assert titles(figure) == ["chat\nhybrid", "chat\nsmall"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["saved (PFLOP)", "saved (TFLOP)"]
    assert [axes.patches[0].get_height() for axes in figure.axes] == [2.0, 3.0]


def test_labels_of_many_budgets_below_bars_do_not_touch() -> None:
    runs = [run(policy, size * GB) for size in range(101, 117) for policy in ("lru", "mine")]
    figure = saved_flops(runs, LOOKS)
    assert len(figure.axes[0].patches) == 32
    # Boxes of slanted labels overlap where the labels do not: their lines must be apart.
    figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels()
    places = [label.get_window_extent().x1 for label in labels]
    assert {label.get_rotation() for label in labels} == {45.0}
    assert min(b - a for a, b in pairwise(places)) > labels[0].get_fontsize()


@pytest.mark.parametrize("latency", ["ttft", "tpot"])
def test_latency_distribution_counts_measured_requests(latency: Any) -> None:
    requests = [
        *(request("lru", **{latency: time}) for time in (0.4, 0.1, 0.2, 0.1)),
        *(request("marconi", **{latency: time}) for time in (0.1, None, 0.05)),
        *(request("lru", 9 * GB, **{latency: time}) for time in (3.0, 2.0)),
        request("mine"),
    ]
    figure = latency_distribution(requests, LOOKS, latency)
    assert titles(figure) == ["budget 5 GB", "budget 9 GB"]
    assert [lines(axes) for axes in figure.axes] == [
        {
            ("lru", "-"): [(0.1, 0.25), (0.1, 0.5), (0.2, 0.75), (0.4, 1.0)],
            ("marconi", "-"): [(0.05, 0.5), (0.1, 1.0)],
        },
        {("lru", "-"): [(2.0, 0.5), (3.0, 1.0)]},
    ]
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    assert_readable(figure)


@pytest.mark.parametrize(
    "times",
    [(0.011, 0.019), (0.01, 0.01), (0.02, 0.09), (0.02, 2.5), (1e-4, 90.0), (0.0, 0.5, 3.0)],
)
@pytest.mark.parametrize("budgets", [1, 4])
def test_latency_axis_has_ticks_inside_that_do_not_touch(
    times: tuple[float, ...], budgets: int
) -> None:
    requests = [
        request(budget=GB << place, ttft=time) for place in range(budgets) for time in times
    ]
    figure = latency_distribution(requests, LOOKS, "ttft")
    assert_readable(figure)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert low < min(filter(None, times))
        assert high > max(times)
        assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 2


def test_names_are_shown_as_they_are_and_long_ones_cut() -> None:
    model = "m" * 200
    runs = [run("a $b$", trace="_x $y$ ^", model=model), run("mine", trace="one\ntwo")]
    figure = hit_rate_by_budget(runs, LOOKS)
    texts = [*legend_texts(figure), *titles(figure)]
    assert not any(map(is_math_text, texts))
    assert [text.replace(r"\$", "$") for text in texts] == [
        *("a $b$", "mine"),
        *(f"_x $y$ ^\n{'m' * 37}…", "one two\nhybrid"),
    ]
    assert_readable(figure)
