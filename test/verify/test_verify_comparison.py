"""Two answers side by side: what is compared, and what no noise explains."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang_marconi.verify.comparison import LIKELIEST, Answer, compare
from sglang_marconi.verify.noise import ROUNDING, Noise
from sglang_marconi.verify.verdict import (
    Calibration,
    Compared,
    Control,
    Verdict,
    WorkloadResult,
    judge,
    of_all,
    of_workload,
)


def answer(*places: Mapping[int, float], cached: int = 10) -> Answer:
    """A greedy reply: at each place the likeliest token."""
    tokens = [max(place, key=lambda token: place[token]) for place in places]
    return Answer(tokens, list(map(dict, places)), cached)


def normalised(logits: Sequence[float]) -> dict[int, float]:
    total = math.log(sum(map(math.exp, logits)))
    likeliest = sorted(range(len(logits)), key=lambda token: -logits[token])[:LIKELIEST]
    return {token: logits[token] - total for token in likeliest}


LOGITS = st.lists(st.floats(-8, 8), min_size=12, max_size=12)
REPLIES = st.lists(LOGITS.map(normalised), min_size=1, max_size=8).map(lambda of: answer(*of))


@given(REPLIES)
def test_an_answer_is_as_itself(reply: Answer) -> None:
    comparison = compare(reply, reply)
    assert comparison.shifts == (0.0,) * len(reply.tokens)
    assert comparison.first_difference is None


@given(REPLIES, REPLIES)
def test_a_token_overturned_shows_at_least_half_its_margin(one: Answer, other: Answer) -> None:
    comparison = compare(one, other)
    place = comparison.first_difference
    if place is None or place >= min(len(one.tokens), len(other.tokens)):
        return
    assert one.tokens[:place] == other.tokens[:place]
    # What comes later has other tokens before it.
    assert len(comparison.shifts) == place + 1
    for some, there in ((one, other), (other, one)):
        likeliest = some.likeliest[place]
        lost = likeliest.get(there.tokens[place], min(likeliest.values()))
        margin = likeliest[some.tokens[place]] - lost
        assert comparison.shifts[place] >= margin / 2 - 1e-12


def test_a_near_tie_that_flips_is_a_small_shift() -> None:
    one = answer({1: -0.5, 2: -0.51}, {3: -0.1, 4: -3.0})
    other = answer({2: -0.5, 1: -0.505}, {5: -0.2, 6: -2.0})
    comparison = compare(one, other)
    assert comparison.first_difference == 0
    assert comparison.shifts == pytest.approx((0.01,))


def test_a_token_missing_from_a_list_is_no_likelier_than_its_last() -> None:
    one = answer({1: -0.1, 2: -3.0})
    other = answer({1: -0.1, 3: -2.5})
    assert compare(one, other).shifts == pytest.approx((0.5,))


def test_a_reply_that_ends_early_differs_without_bound() -> None:
    long = answer({1: -0.1}, {2: -0.1})
    short = answer({1: -0.1})
    assert compare(short, long) == ((0.0, math.inf), 1)
    assert compare(long, short) == ((0.0, math.inf), 1)
    # Where tokens differ before that, the lengths say nothing.
    assert compare(answer({3: -0.1}), long).shifts == pytest.approx((0.0,))


def test_without_log_probabilities_a_changed_token_shows_half_the_margin() -> None:
    cold = answer({1: -0.1, 2: -3.0}, {4: -0.2, 5: -0.3})
    same = Answer([1, 4], [], 5)
    tie = Answer([1, 5], [], 5)
    wide = Answer([2, 4], [], 5)
    unheard_of = Answer([9, 4], [], 5)
    assert compare(same, cold) == ((), None)
    assert compare(tie, cold).shifts == pytest.approx((0.05,))
    assert compare(tie, cold).first_difference == 1
    assert compare(wide, cold).shifts == pytest.approx((1.45,))
    assert compare(unheard_of, cold).shifts == pytest.approx((1.45,))


# ---- noise ----


def shifts(chooser: random.Random, scale: float, count: int = 16) -> list[float]:
    """Of a bfloat16 server: steps, and now and then a large one."""
    step = scale / 4
    return [
        round(abs(chooser.gauss(0, scale)) * (3 if chooser.random() < 0.01 else 1) / step) * step
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("scale", [1e-7, 0.002, 0.05])
def test_noise_as_calibrated_is_never_too_much(seed: int, scale: float) -> None:
    chooser = random.Random(seed)
    noise = Noise(shifts(chooser, scale) for _ in range(28))
    assert all(noise.excess(shifts(chooser, scale, 12)) <= 1 for _ in range(200))


@pytest.mark.parametrize("seed", range(30))
def test_a_lasting_shift_is_found_where_a_single_one_is_not(seed: int) -> None:
    chooser = random.Random(seed)
    noise = Noise(shifts(chooser, 0.01) for _ in range(28))
    # Each token's is within what single tokens do, or nearly.
    lasting = 0.9 * noise.bound()
    assert noise.excess([lasting]) <= 1
    assert noise.excess([lasting] * 12) > 1


def test_without_any_noise_rounding_is_allowed() -> None:
    for noise in (Noise([]), Noise([[0.0] * 16])):
        assert noise.largest == 0
        assert noise.excess([ROUNDING] * 16) <= 1
        assert noise.excess([0.0] * 15 + [1.01 * ROUNDING]) > 1
        assert noise.excess([]) == 0


def test_a_server_without_bound_accuses_nobody() -> None:
    noise = Noise([[math.inf, 0.0]])
    assert noise.excess([1.0, math.inf]) == 0


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=20), max_size=6),
    st.lists(st.floats(0, 1), max_size=20),
)
def test_what_was_calibrated_with_is_no_excess(
    samples: list[list[float]], others: list[float]
) -> None:
    noise = Noise([*samples, others])
    assert noise.excess(others) <= 1
    assert noise.largest == max(map(max, filter(None, [*samples, others])), default=0.0)


# ---- verdicts ----

CALIBRATION = Calibration(
    again=0.0,
    company=0.01,
    reread=0.02,
    bound=0.06,
    other_prefix=Control(8, 8),
    token_twice=Control(6, 8),
)
NOISE = Noise([[0.02] * 8])


def compared(*warm: Mapping[int, float], cached: int = 10) -> Compared:
    cold = answer({1: -0.5, 2: -0.52})
    return judge(answer(*warm, cached=cached), [cold], 20, NOISE)


def test_workloads_are_judged_by_their_worst_answer() -> None:
    same = compared({1: -0.5, 2: -0.52})
    flipped = compared({1: -0.51, 2: -0.505})
    moved = compared({1: -0.4, 2: -0.62})
    assert of_workload("w", [same]).verdict is Verdict.EXACT
    noisy = of_workload("w", [same, flipped])
    assert (noisy.verdict, noisy.changed, noisy.differ) == (Verdict.NOISE, 1, 0)
    assert noisy.largest_shift == pytest.approx(0.015)
    wrong = of_workload("w", [same, flipped, moved], "a note")
    assert (wrong.verdict, wrong.requests, wrong.differ) == (Verdict.DIFFERS, 3, 1)
    assert (wrong.reused, wrong.cached_tokens, wrong.prompt_tokens) == (3, 30, 60)
    assert wrong.note == "a note"


def test_a_workload_without_reuse_is_not_called_exact() -> None:
    unused = compared({1: -0.5, 2: -0.52}, cached=0)
    assert of_workload("w", [unused]).verdict is Verdict.NOT_REUSED
    assert of_workload("w", []).verdict is Verdict.NOT_REUSED
    # What differs without having resumed may have been spoiled by one that did.
    spoiled = compared({1: -0.1, 2: -2.0}, cached=0)
    assert of_workload("w", [spoiled]).verdict is Verdict.DIFFERS


def test_an_answer_is_compared_with_the_nearest_cold_one() -> None:
    warm = answer({1: -0.5, 2: -0.52})
    outlier, usual = answer({1: -0.1, 2: -2.0}), answer({1: -0.5, 2: -0.53})
    assert judge(warm, [outlier], 20, NOISE).excess > 1
    assert judge(warm, [outlier, usual], 20, NOISE).excess <= 1


def result(verdict: Verdict, reused: int = 3) -> WorkloadResult:
    return WorkloadResult(name=f"of {verdict}", verdict=verdict, requests=5, reused=reused)


def test_all_is_exact_only_if_each_workload_that_reused_is() -> None:
    exact, unused = result(Verdict.EXACT), result(Verdict.NOT_REUSED, reused=0)
    skipped = WorkloadResult(name="of none", verdict=Verdict.SKIPPED)
    assert of_all([exact, unused, skipped], CALIBRATION)[0] is Verdict.EXACT
    assert of_all([exact, result(Verdict.NOISE)], CALIBRATION)[0] is Verdict.NOISE
    assert of_all([unused, skipped], CALIBRATION)[0] is Verdict.NOT_REUSED
    verdict, why = of_all([exact, result(Verdict.DIFFERS)], CALIBRATION)
    assert verdict is Verdict.DIFFERS
    assert "of differs" in why


def test_where_a_wrong_state_would_not_be_seen_nothing_is_said() -> None:
    blind = Calibration(
        again=0.5,
        company=0.5,
        reread=0.5,
        bound=1.5,
        other_prefix=Control(3, 8),
        token_twice=Control(0, 8),
    )
    verdict, why = of_all([result(Verdict.EXACT)], blind)
    assert verdict is Verdict.UNSURE
    assert "3 of 8" in why
    # What differs more than even that is worth an accusation.
    assert of_all([result(Verdict.DIFFERS)], blind)[0] is Verdict.DIFFERS
