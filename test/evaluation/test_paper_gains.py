"""Gains, sweeps and names of the paper's evaluation, on records made by hand."""

from collections import Counter
from typing import Any

import pytest
from evaluation.paper import claims
from evaluation.paper.gains import (
    of_base_model,
    ratios,
    trials,
    ttft_cuts,
    without_cache,
    without_hits,
)
from evaluation.paper.naming import Model, TraceName, model_name, trace_name
from evaluation.paper.plan import FLOPS_PER_SECOND, assumed_latency, cost_of, jobs
from evaluation.paper.sweeps import CONTENTION, MIX, RATE, STATE_DIM, sweep
from evaluation.paper.workloads import BASE, FULL, QUICK, FromTen, generated
from sglang_marconi.records import RunRecord
from sglang_marconi.traces.generators import Lmsys

GB = 10**9
TRACE = trace_name("swebench", 5, 10, 100)


def run(policy: str, rate: float, **fields: Any) -> RunRecord:
    values = {
        "trace": TRACE,
        "model": model_name(BASE, profile=False),
        "budget_bytes": 60 * GB,
        "requests": 10,
        "prompt_tokens": 1000,
        "hit_tokens": round(rate * 1000),
        "token_hit_rate": rate,
        "flops_saved": 0.0,
        "peak_bytes": 0,
        "evictions": 1,
        "seconds": 0.0,
    }
    return RunRecord(policy=policy, **(values | fields))


def cell(vllm: float, sglang: float, marconi: float, auto: float, **fields: Any) -> list[RunRecord]:
    rates = {"vllm+": vllm, "sglang+": sglang, "marconi": marconi, "auto": auto}
    return [run(policy, rate, **fields) for policy, rate in rates.items()]


def test_ratios_are_of_the_same_trial() -> None:
    cells = trials([*cell(0.1, 0.2, 0.3, 0.4), *cell(0.2, 0.4, 0.4, 0.5, budget_bytes=80 * GB)])
    over_vllm = ratios(cells, "marconi", "vllm+")
    over_sglang = ratios(cells, "auto", "sglang+")
    assert over_vllm is not None and over_sglang is not None
    assert over_vllm.values == pytest.approx([2.0, 3.0])
    assert over_vllm.median == pytest.approx(2.5)
    assert (over_sglang.least, over_sglang.best) == pytest.approx((1.25, 2.0))
    assert over_sglang.mean == pytest.approx(1.625)


def test_a_baseline_without_hits_gives_no_ratio() -> None:
    cells = trials([*cell(0.0, 0.2, 0.3, 0.4), *cell(0.2, 0.4, 0.4, 0.5, budget_bytes=80 * GB)])
    over_vllm = ratios(cells, "marconi", "vllm+")
    assert over_vllm is not None and list(over_vllm.values) == [2.0]
    assert without_hits(cells, "vllm+") == 1
    assert ratios(trials(cell(0.0, 0.2, 0.3, 0.4)), "marconi", "vllm+") is None


def test_a_trial_without_all_policies_or_with_no_cache_is_left_out() -> None:
    bounds = [run("unlimited", 0.9, budget_bytes=None), run("sglang+", 0.0, budget_bytes=0)]
    assert not trials([*cell(0.1, 0.2, 0.3, 0.4)[:3], *bounds])


def test_other_models_are_no_part_of_the_grid() -> None:
    other = model_name(BASE._replace(state_dim=16), profile=False)
    cells = trials([*cell(0.1, 0.2, 0.3, 0.4), *cell(0.2, 0.2, 0.2, 0.2, model=other)])
    assert [found.model for found in of_base_model(cells)] == [model_name(BASE, profile=False)]


def test_times_are_compared_as_shares_of_those_without_a_cache() -> None:
    slow, fast = {"ttft_p95": 3.0}, {"ttft_p95": 2.0}
    runs = [
        run("vllm+", 0.1, **slow),
        run("sglang+", 0.2, **fast),
        run("marconi", 0.3, ttft_p95=1.0),
        run("auto", 0.3, ttft_p95=2.5),
        run("sglang+", 0.0, budget_bytes=0, ttft_p95=4.0),
    ]
    cells, uncached = trials(runs), without_cache(runs)
    lower = ttft_cuts(cells, uncached, "marconi", "vllm+", "ttft_p95")
    higher = ttft_cuts(cells, uncached, "auto", "sglang+", "ttft_p95")
    assert lower is not None and list(lower.values) == [0.5]
    assert higher is not None and list(higher.values) == [-0.125]


def test_a_sweep_takes_one_setting_in_the_order_of_its_axis() -> None:
    runs = [
        made
        for size in (100, 60, 80)
        for made in cell(0.1, 0.2, size / 1000, 0.4, budget_bytes=size * GB)
    ]
    runs += [
        made
        for size in (1, 2, 3, 4)
        for made in cell(0.1, 0.2, 0.3, 0.4, budget_bytes=size * GB, trace="lmsys_sps=1_nums=9")
    ]
    found = sweep(CONTENTION, trials(runs))
    assert found is not None
    assert list(found.cells) == ["60", "80", "100"]
    assert [runs["marconi"].token_hit_rate for runs in found.cells.values()] == [0.06, 0.08, 0.1]
    assert found.setting == "swebench, 5 sessions/s, 10 s between turns"
    assert sweep(RATE, trials(runs)) is None


def test_mixes_and_state_dimensions_are_told_apart() -> None:
    models = [Model(4, 32, 28, 128), Model(12, 24, 28, 128), BASE, BASE._replace(state_dim=16)]
    runs = [
        made
        for model in models
        for made in cell(0.1, 0.2, 0.3, 0.4, model=model_name(model, profile=True))
    ]
    mixes, dimensions = sweep(MIX, trials(runs)), sweep(STATE_DIM, trials(runs))
    assert mixes is not None and list(mixes.cells) == ["1:2", "1:8"]
    assert dimensions is not None and list(dimensions.cells) == ["16", "128"]


def test_names_say_what_they_were_made_of() -> None:
    assert TraceName.parse(TRACE) == TraceName("swebench", 5.0, 10.0, True)
    given = TraceName.parse("lmsys_sps=0.25_nums=100")
    assert given == TraceName("lmsys", 0.25, None, False)
    assert TraceName.parse("my chats") == TraceName("my chats", None, None, False)
    assert Model.parse(model_name(BASE, profile=True)) == BASE
    with pytest.raises(ValueError, match="paper-7b"):
        Model.parse("paper-7b")


def test_every_run_of_the_full_grid_is_planned_once() -> None:
    names = [
        trace_name(workload, rate, gap, FULL.sessions)
        for workload, swept in FULL.sweeps.items()
        for rate, gap in swept.patterns()
    ]
    assert len(names) == len(set(names)) == 14
    assert FULL.compared_name() in names
    setups = [job.setup for job in jobs(FULL, names, None)]
    keys = [(setup.trace, setup.policy, setup.model, setup.budget) for setup in setups]
    assert len(keys) == len(set(keys))


def test_traces_are_those_of_the_generator() -> None:
    lmsys = [trace for trace in generated(QUICK) if trace.name.startswith("lmsys")]
    for trace, rate in zip(lmsys, QUICK.sweeps["lmsys"].rates, strict=True):
        shape = Lmsys(turns=FromTen(2.0), sessions_per_second=rate, sessions=QUICK.sessions)
        expected = shape.requests()
        assert [(request.session_id, request.turn) for request in trace.requests] == [
            (request.session_id, request.turn) for request in expected
        ]
        assert [request.arrival for request in trace.requests] == pytest.approx(
            [request.arrival for request in expected]
        )
        assert all(
            found.prompt.ids.tolist() == made.prompt.ids.tolist()
            for found, made in zip(trace.requests, expected, strict=True)
        )
        turns = Counter(request.session_id for request in expected)
        assert min(turns.values()) >= 10


def test_the_assumed_time_is_that_of_the_flops() -> None:
    cost = cost_of(BASE)
    profile = assumed_latency(cost)
    assert profile.ttft(0) == 0.0
    assert profile.ttft(4096) == pytest.approx(cost.prefill_flops(0, 4096) / FLOPS_PER_SECOND)


def test_the_papers_numbers_agree_with_what_was_said_of_them() -> None:
    states = claims.STATE_DIM.rates
    over_vllm = [m / v for m, v in zip(states["marconi"], states["vllm+"], strict=True)]
    assert (over_vllm[0], over_vllm[-1]) == pytest.approx((5.7, 35.4), abs=0.06)
    sizes = claims.CONTENTION.rates
    gains = [m / s - 1 for m, s in zip(sizes["marconi"], sizes["sglang+"], strict=True)]
    assert max(gains) == pytest.approx(0.683, abs=0.001)
    assert min(gains) == pytest.approx(0.10, abs=0.005)
    mixes = claims.MIX.rates
    over_vllm = [m / v - 1 for m, v in zip(mixes["marconi"], mixes["vllm+"], strict=True)]
    assert (over_vllm[0], over_vllm[-1]) == pytest.approx((0.133, 2.6), abs=0.01)
    for figure in (claims.MIX, claims.STATE_DIM, claims.CONTENTION, claims.RATE, claims.GAP):
        assert all(len(rates) == len(figure.points) for rates in figure.rates.values())
        assert figure.source
