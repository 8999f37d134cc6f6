import numpy as np
from sglang_marconi.report.series import (
    MOST_POINTS,
    distribution,
    hit_rate_so_far,
    holdings,
)
from support.run_records import request


def test_hit_rate_so_far_weighs_tokens_in_the_order_of_arrival() -> None:
    requests = [
        request(arrival=4.0, prompt_tokens=100, hit_tokens=50),
        request(arrival=0.0, prompt_tokens=100, hit_tokens=0),
        request(arrival=1.0, prompt_tokens=200, hit_tokens=100),
    ]
    curve = hit_rate_so_far(requests)
    assert curve.x.tolist() == [0.0, 1.0, 4.0]
    assert curve.y.tolist() == [0.0, 100 / 300, 150 / 400]


def test_no_prompt_tokens_are_a_rate_of_zero() -> None:
    assert hit_rate_so_far([request(prompt_tokens=0)]).y.tolist() == [0.0]


def test_hit_rate_of_a_long_run_is_exact_where_it_is_kept() -> None:
    # Bursts: arrivals are far from even.
    arrivals = [float(number // 50 * 60 + number % 50 * 0.1) for number in range(12_000)]
    hits = [number * 7919 % 101 for number in range(12_000)]
    requests = [
        request(arrival=arrival, hit_tokens=hit)
        for arrival, hit in zip(arrivals, hits, strict=True)
    ]
    curve = hit_rate_so_far(requests)
    exact = dict(zip(arrivals, np.cumsum(hits) / (100 * np.arange(1, 12_001)), strict=True))
    assert 200 < len(curve.x) <= MOST_POINTS + 1
    assert [exact[x] for x in curve.x] == curve.y.tolist()
    assert (curve.x[0], curve.x[-1]) == (arrivals[0], arrivals[-1])
    assert curve.y[-1] == sum(hits) / 1_200_000
    # No burst is skipped.
    assert np.diff(curve.x).max() < 61


def test_a_long_run_at_one_moment_ends_with_its_hit_rate() -> None:
    requests = [request(arrival=3.0, hit_tokens=number % 2) for number in range(3 * MOST_POINTS)]
    curve = hit_rate_so_far(requests)
    assert set(curve.x) == {3.0}
    assert curve.y[-1] == 0.005


def test_holdings_are_in_the_order_of_arrival_and_measured_ones_alone() -> None:
    requests = [
        request(arrival=2.0, state_bytes=3, kv_bytes=30),
        request(arrival=1.0, state_bytes=2, kv_bytes=0),
        request(arrival=0.0, state_bytes=1),
        request(arrival=3.0, kv_bytes=1),
    ]
    held = holdings(requests)
    assert held is not None
    assert [part.tolist() for part in held] == [[1.0, 2.0], [2.0, 3.0], [0.0, 30.0]]
    assert holdings(requests[2:]) is None


def test_holdings_of_a_long_run_keep_the_fullest_moments() -> None:
    requests = [
        request(arrival=float(number), state_bytes=number % 10, kv_bytes=2 * (number % 10))
        for number in range(12_000)
    ]
    requests[7003] = request(arrival=7003.0, state_bytes=5, kv_bytes=900)
    held = holdings(requests)
    assert held is not None
    assert len(held.time) == MOST_POINTS
    assert np.all(np.diff(held.time) > 0)
    peak = int(np.argmax(held.states + held.kv))
    assert (held.time[peak], held.states[peak], held.kv[peak]) == (7003.0, 5.0, 900.0)
    # Twelve requests a stretch: each has a full moment, of which both parts are kept.
    others = np.arange(len(held.time)) != peak
    assert set(held.states[others]) == {9.0}
    assert set(held.kv[others]) == {18.0}


def test_distribution_counts_the_values_that_are_not_above() -> None:
    curve = distribution([3.0, 1.0, 2.0, 2.0])
    assert curve.x.tolist() == [1.0, 2.0, 2.0, 3.0]
    assert curve.y.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_distribution_of_many_values_is_exact_where_it_is_kept() -> None:
    values = [float(number * 7919 % 12_007) for number in range(12_007)]
    curve = distribution(values)
    assert len(curve.x) == MOST_POINTS
    assert (curve.x[0], curve.x[-1], curve.y[-1]) == (0.0, 12_006.0, 1.0)
    assert curve.y.tolist() == ((curve.x + 1) / 12_007).tolist()
    assert np.diff(curve.y).max() < 2 / MOST_POINTS
