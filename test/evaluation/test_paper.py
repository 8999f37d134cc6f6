"""The paper's evaluation from end to end, on the small grid."""

import re
from html import unescape
from pathlib import Path

import pytest
from evaluation.paper import draw_paper, run_paper
from evaluation.paper.__main__ import main
from evaluation.paper.claims import ABSTRACT, SECOND_HAND
from rich.progress import Progress
from sglang_marconi.cost.latency import LatencyProfile
from sglang_marconi.records import RunRecord, read_records, write_records
from sglang_marconi.traces.generators import generate
from sglang_marconi.traces.sources import Trace


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("paper") / "new"
    with Progress(disable=True) as progress:
        path = run_paper(out, quick=True, workers=2, progress=progress)
        (task,) = progress.tasks
        assert task.completed == task.total
    return path


def text(page: Path) -> str:
    """A page without its markup, cells of tables apart by bars."""
    html = page.read_text(encoding="utf-8").split("<body>")[1]
    html = re.sub(r'src="[^"]*"', "", html)
    html = re.sub(r"</t[dh]>", "|", html)
    return unescape(re.sub(r"<[^>]+>", "", html)).replace("\N{NO-BREAK SPACE}", " ")


def records(page: Path) -> list[RunRecord]:
    return list(read_records(page.parent / "runs.jsonl", RunRecord))


def test_the_command_says_where_its_page_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--out", str(tmp_path / "out"), "--quick", "--traces", "lmsys:sessions=20,turns=3"])
    assert Path(capsys.readouterr().out.strip()).name == "paper.html"


def test_numbers_on_the_page_are_those_of_the_records(page: Path) -> None:
    runs = records(page)
    base = [run for run in runs if run.model.startswith("attn=4_ssm=24_mlp=28_state=128_")]
    shown = text(page)
    for workload in ("swebench", "sharegpt", "lmsys"):
        rates = {
            (run.trace, run.budget_bytes, run.policy): run.token_hit_rate
            for run in base
            if run.trace.startswith(workload) and run.budget_bytes
        }
        over_vllm = [
            rate / rates[trace, budget, "vllm+"]
            for (trace, budget, policy), rate in rates.items()
            if policy == "auto"
        ]
        over_sglang = [
            rate / rates[trace, budget, "sglang+"] - 1
            for (trace, budget, policy), rate in rates.items()
            if policy == "auto"
        ]
        mean = sum(over_vllm) / len(over_vllm)
        least = f"{min(over_sglang):+.1%}".replace("%", " %")
        assert f"auto|{len(over_vllm)}|{min(over_vllm):.3g}×|" in shown
        assert f"|{mean:.3g}×|{max(over_vllm):.3g}×|{least}|" in shown


def test_the_page_says_how_much_was_replayed(page: Path) -> None:
    runs = records(page)
    assert f"{sum(run.requests for run in runs):,} requests replayed" in text(page)
    assert f"{len(runs)} runs" in text(page)


def test_caches_of_the_grid_are_under_pressure(page: Path) -> None:
    runs = records(page)
    unbounded = {run.trace: run for run in runs if run.policy == "unlimited"}
    smallest = min(run.budget_bytes for run in runs if run.budget_bytes)
    for run in runs:
        if run.budget_bytes == smallest:
            assert run.evictions
            assert run.token_hit_rate < unbounded[run.trace].token_hit_rate


def test_the_page_stands_alone_and_names_sources_and_differences(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert html.count("<img") == 7
    shown = text(page)
    for said in (ABSTRACT, SECOND_HAND, "microbenchmark_dstate.py", "34.4×", "35.4×"):
        assert said in shown
    for said in ("The workloads are generated", "one token earlier", "An assumption:"):
        assert said in shown
    assert "given ones" not in shown


def test_the_page_is_drawn_again_from_the_records_alone(page: Path, tmp_path: Path) -> None:
    write_records(tmp_path / "runs.jsonl", records(page))
    assert draw_paper(tmp_path).read_bytes() == page.read_bytes()


def test_another_record_makes_another_page(page: Path, tmp_path: Path) -> None:
    first, *others = records(page)
    write_records(tmp_path / "runs.jsonl", others)
    assert text(draw_paper(tmp_path)) != text(page)
    write_records(tmp_path / "runs.jsonl", [first])
    with pytest.raises(ValueError, match="no runs of the paper"):
        draw_paper(tmp_path)


def test_given_traces_take_the_place_of_the_generated(tmp_path: Path) -> None:
    requests = generate("lmsys", sessions=8)
    profile = LatencyProfile([(0, 0.1), (1000, 0.2)])
    traces = [Trace("lmsys_sps=1_nums=8", requests), Trace("chats", requests)]
    with Progress(disable=True) as progress:
        page = run_paper(
            tmp_path, quick=True, workers=1, progress=progress, traces=traces, latency=profile
        )
    runs = records(page)
    assert {run.trace for run in runs} == {"lmsys_sps=1_nums=8", "chats"}
    assert all(run.ttft_p50 and run.ttft_p50 >= 0.1 for run in runs)
    own = {run.budget_bytes for run in runs if run.trace == "chats" and run.budget_bytes}
    assert own >= {300_000_000, 600_000_000, 500_000_000, 10**9, 4 * 10**9, 8 * 10**9}
    shown = text(page)
    assert "The traces are given ones" in shown
    assert "given latency profile" in shown
    assert "The workloads are generated" not in shown
    assert "An assumption:" not in shown
