import pytest
from rich.console import Console
from sglang_marconi.cost import ModelCost
from sglang_marconi.records import RequestRecord, run_record
from sglang_marconi.report.terminal import comparison


def record(
    number: int,
    *,
    hit: int = 0,
    ttft: float | None = 0.1,
    tpot: float | None = None,
    policy: str = "ours",
    budget: int | None = None,
) -> RequestRecord:
    return RequestRecord(
        trace="chats",
        policy=policy,
        model="tiny",
        budget_bytes=budget,
        session_id="s",
        turn=number,
        arrival=float(number),
        prompt_tokens=100,
        hit_tokens=hit,
        ttft=ttft,
        tpot=tpot,
    )


def test_totals() -> None:
    run = run_record([record(0), record(1, hit=50), record(2, hit=100)], seconds=4.5)
    assert (run.trace, run.policy, run.model) == ("chats", "ours", "tiny")
    assert (run.requests, run.prompt_tokens, run.hit_tokens) == (3, 300, 150)
    assert run.token_hit_rate == 0.5
    assert run.seconds == 4.5
    assert (run.budget_bytes, run.peak_bytes, run.evictions) == (None, None, None)


def test_the_budget_is_that_of_the_requests() -> None:
    assert run_record([record(0, budget=5_000)], seconds=1.0).budget_bytes == 5_000


def test_percentiles_lie_between_the_nearest_values() -> None:
    run = run_record(
        [record(n, ttft=float(n), tpot=n / 10 if n else None) for n in range(101)], seconds=1.0
    )
    assert (run.ttft_p50, run.ttft_p95, run.ttft_p99) == pytest.approx((50, 95, 99))
    # Of 0.1 to 10: the first reply has but one token.
    assert (run.tpot_p50, run.tpot_p95, run.tpot_p99) == pytest.approx((5.05, 9.505, 9.901))


def test_what_was_not_measured_has_no_percentiles() -> None:
    run = run_record([record(0, ttft=None)], seconds=1.0)
    assert (run.ttft_p50, run.ttft_p95, run.ttft_p99) == (None, None, None)
    assert (run.tpot_p50, run.tpot_p95, run.tpot_p99) == (None, None, None)


def test_saved_flops_are_those_of_the_hits() -> None:
    cost = ModelCost(
        flops_per_token=3.0, flops_per_token_squared=0.5, state_bytes=1, kv_bytes_per_token=1
    )
    records = [record(0), record(1, hit=10), record(2, hit=20)]
    assert run_record(records, seconds=1.0, cost=cost).flops_saved == 90 + 0.5 * (100 + 400)
    assert run_record(records, seconds=1.0).flops_saved == 0.0


def test_no_records_is_an_error() -> None:
    with pytest.raises(ValueError, match="without records"):
        run_record([], seconds=1.0)


def test_table_has_a_row_for_each_run() -> None:
    runs = [
        run_record([record(0, policy="first")], seconds=1.0),
        run_record([record(0, hit=25, policy="second")], seconds=2.5),
        run_record([record(0, ttft=None, policy="third")], seconds=2.5),
    ]
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        console.print(comparison(runs))
    first, second, third = capture.get().splitlines()[-4:-1]
    assert all(text in first for text in ("first", "0.0%", "100 ms", "1.0 s"))
    assert all(text in second for text in ("second", "25.0%", "100 ms", "1", "2.5 s"))
    assert "third" in third and "ms" not in third
