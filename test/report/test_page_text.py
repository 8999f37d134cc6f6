"""Numbers for people, tables, and what the page says about quantities."""

import pytest
from sglang_marconi import units
from sglang_marconi.records import RunRecord
from sglang_marconi.report.definitions import definitions, not_measured
from sglang_marconi.report.looks import Looks, looks
from sglang_marconi.report.tables import all_runs, best_by_budget, latencies
from support.run_records import GB, request, run


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def rows(table_rows: object) -> list[list[str]]:
    assert isinstance(table_rows, list)
    return [[plain(cell) for cell in row] for row in table_rows]


def looks_of(runs: list[RunRecord]) -> Looks:
    return looks(run.policy for run in runs)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (5e9, "5 GB"),
        (5.555e9, "5.55 GB"),
        (999.4e6, "999 MB"),
        (999.7e6, "1 GB"),
        (12e12, "12 TB"),
        (4e18, "4,000 PB"),
    ],
)
def test_bytes(number: float, text: str) -> None:
    assert plain(units.byte_size(number)) == text


@pytest.mark.parametrize(
    ("number", "text"), [(1.2e18, "1.2 EFLOP"), (3.456e15, "3.46 PFLOP"), (0, "0 FLOP")]
)
def test_flops(number: float, text: str) -> None:
    assert plain(units.flops(number)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00025, "250 µs"),
        (0.0123, "12.3 ms"),
        (1.5, "1.5 s"),
        (59, "59 s"),
        (90, "1.5 min"),
        (5400, "1.5 h"),
        (2 * 86400, "2 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert plain(units.duration(seconds)) == text


@pytest.mark.parametrize(
    ("longest", "unit"),
    [(0.5, (1, "s")), (170, (1, "s")), (200, (60, "min")), (4 * 3600, (3600, "h"))],
)
def test_a_time_axis_has_at_least_three_units(longest: float, unit: tuple[float, str]) -> None:
    assert units.time_unit(longest) == unit


def test_shares() -> None:
    assert plain(units.percent(0.6344)) == "63.4 %"
    assert plain(units.points(0.0345)) == "+3.5 points"
    assert plain(units.points(-0.1)) == "-10.0 points"


def test_all_runs_have_a_row_by_budget_then_policy() -> None:
    runs = [
        run("unlimited", None, peak_bytes=None, evictions=None),
        run("marconi", 10 * GB),
        run("zeta", token_hit_rate=0.6344, requests=12_000, prompt_tokens=1_234_567),
        run("marconi", flops_saved=1.2e18, seconds=90.0),
    ]
    table = all_runs(runs, looks_of(runs))
    ((name, found),) = table.groups
    assert name == "chat on hybrid"
    cells = [dict(zip(table.head, row, strict=True)) for row in rows(found)]
    assert [(row["Budget"], row["Policy"]) for row in cells] == [
        ("5 GB", "marconi"),
        ("5 GB", "zeta"),
        ("10 GB", "marconi"),
        ("no budget", "unlimited"),
    ]
    assert (cells[0]["Saved FLOPs"], cells[0]["Replay time"]) == ("1.2 EFLOP", "1.5 min")
    assert (cells[0]["Peak"], cells[0]["Evictions"]) == ("4 GB", "7")
    assert cells[1]["Token hit rate"] == "63.4 %"
    assert (cells[1]["Requests"], cells[1]["Prompt tokens"]) == ("12,000", "1,234,567")
    assert (cells[3]["Peak"], cells[3]["Evictions"]) == (units.MISSING, units.MISSING)


def test_traces_and_models_are_groups_of_rows() -> None:
    runs = [run(trace="b"), run(trace="a", model="y"), run(trace="a", model="x")]
    table = all_runs(runs, looks_of(runs))
    assert [name for name, _ in table.groups] == ["a on x", "a on y", "b on hybrid"]


def test_latencies_have_the_columns_that_were_measured() -> None:
    runs = [run(ttft_p50=0.1, ttft_p99=2.0), run("marconi", ttft_p50=0.05)]
    table = latencies(runs, looks_of(runs))
    assert table is not None
    assert list(table.head) == ["Budget", "Policy", "TTFT P50", "TTFT P99"]
    assert rows(table.groups[0][1]) == [
        ["5 GB", "lru", "100 ms", "2 s"],
        ["5 GB", "marconi", "50 ms", units.MISSING],
    ]
    assert latencies([run()], looks_of(runs)) is None


def test_best_policy_has_its_margin_to_lru_and_is_no_bound() -> None:
    runs = [
        run("lru", token_hit_rate=0.3),
        run("marconi", token_hit_rate=0.345),
        run("oracle", token_hit_rate=0.5),
        run("marconi", 8 * GB, token_hit_rate=0.5),
        run("unlimited", None, token_hit_rate=0.9),
    ]
    table = best_by_budget(runs, looks_of(runs))
    head = ["Budget", "Best policy", "Token hit rate", "lru", "Margin to lru", "oracle"]
    assert list(table.head) == head
    missing = units.MISSING
    assert rows(table.groups[0][1]) == [
        ["5 GB", "marconi", "34.5 %", "30.0 %", "+4.5 points", "50.0 %"],
        ["8 GB", "marconi", "50.0 %", missing, missing, missing],
    ]


def test_policies_that_tie_are_all_best_and_columns_need_their_policy() -> None:
    runs = [run("marconi"), run("auto"), run("vllm+", token_hit_rate=0.1)]
    table = best_by_budget(runs, looks_of(runs))
    assert list(table.head) == ["Budget", "Best policy", "Token hit rate"]
    assert rows(table.groups[0][1]) == [["5 GB", "marconi, auto", "40.0 %"]]


def test_bounds_alone_have_no_best_policy() -> None:
    runs = [run("unlimited", None), run("oracle")]
    assert not best_by_budget(runs, looks_of(runs)).groups


def test_not_measured_names_fields_without_values_and_how_often() -> None:
    times = {name: 0.1 for name in ("ttft_p50", "ttft_p95", "ttft_p99", "tpot_p50", "tpot_p95")}
    runs = [run(**times), run("marconi", None, evictions=None, **times)]
    requests = [request(state_bytes=1, kv_bytes=1, ttft=0.0), request(state_bytes=0, ttft=0.2)]
    assert not_measured(runs, requests) == [
        "Evictions: not in 1 of 2 runs.",
        "Time per output token, P99: in none of the runs.",
        "Bytes of KV after each request: not in 1 of 2 requests.",
        "Time per output token of each request: in none of the requests.",
    ]


def test_everything_measured_leaves_nothing_to_say() -> None:
    times = {f"{name}_p{rank}": 0.1 for name in ("ttft", "tpot") for rank in (50, 95, 99)}
    assert not not_measured([run(**times)], [])


def test_definitions_of_policies_need_their_policy() -> None:
    assert "Token hit rate" in definitions(["marconi"])
    assert not {"lru", "oracle", "unlimited"} & definitions(["marconi"]).keys()
    assert "lru" in definitions(["marconi", "lru"])


def test_looks_are_fixed_for_known_policies_and_differ_for_all() -> None:
    known = ["vllm+", "sglang+", "lru", "marconi", "auto", "oracle", "unlimited"]
    others = [f"policy {number:02}" for number in range(30)]
    everything = looks([*reversed(others), *reversed(known)])
    assert list(everything) == known + others
    assert len(set(everything.values())) == 37
    assert len({everything[policy].colour for policy in known}) == 7
    assert all(looks([policy])[policy] == everything[policy] for policy in known)
    assert looks(others) == looks(reversed(others))
