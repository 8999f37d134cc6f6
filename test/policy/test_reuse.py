"""What is learned of reuse: against traffic whose rates are known, and on any calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sglang_marconi.policy.reuse import Kind, ReuseModel

Floats = NDArray[np.float64]
# Uses for each tick at an age, of what has not been used before it.
Hazard = Callable[[Floats], Floats]

_STEP = 0.1
_AGES = (0.0, 0.3, 1.0, 2.5, 6.0, 15.0, 40.0, 100.0, 250.0, 700.0, 2000.0)
_EXTREMES = (*_AGES, 1e4, 1e5, 1e6, 1e9)

kinds = st.sampled_from(Kind)


def each_kind(model: ReuseModel, ages: Sequence[float] = _AGES) -> Floats:
    """Its rates, of shape ``[kinds, ages]``."""
    return np.array([[model.rate(kind, age) for age in ages] for kind in Kind])


# ---- what is known is learned ----


def true_rate(hazard: Hazard, age: float, until: float) -> float:
    """The best rate of use over any span from ``age`` on."""
    per_step = hazard(np.arange(age, until, _STEP)) * _STEP
    unused = np.exp(-np.cumsum(per_step))
    reached = np.concatenate(([1.0], unused[:-1]))
    held = np.cumsum((reached + unused) / 2 * _STEP)
    return float(((1.0 - unused) / held).max())


def observe(model: ReuseModel, kind: Kind, hazard: Hazard, until: float, seed: int = 0) -> None:
    """Many checkpoints are used at ages that follow from ``hazard``, or go at age ``until``."""
    grown = np.cumsum(hazard(np.arange(0.0, until, _STEP)) * _STEP)
    for chance in np.random.default_rng(seed).exponential(size=4000):
        age = float(np.searchsorted(grown, chance)) * _STEP
        model.waited(kind, 0.0, min(age, until))
        if age < until:
            model.used(kind, age)
    model.estimate(0.0)


def constant(ages: Floats) -> Floats:
    return np.full_like(ages, 0.02)


def rising_then_falling(ages: Floats) -> Floats:
    """Most uses come about 60 ticks after the one before."""
    found: Floats = 0.03 * np.exp(-0.5 * (np.log2((ages + 1.0) / 60.0) / 1.5) ** 2) + 0.0005
    return found


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("hazard", "until", "ages"),
    [
        (constant, 200.0, [0.0, 1.0, 5.0, 20.0, 50.0, 100.0]),
        (rising_then_falling, 1000.0, [0.0, 2.0, 5.0, 20.0, 40.0, 60.0, 100.0, 200.0, 300.0]),
    ],
)
def test_learned_rates_are_near_the_true_ones(
    hazard: Hazard, until: float, ages: list[float], kind: Kind
) -> None:
    """Within a third, where checkpoints were seen."""
    model = ReuseModel()
    observe(model, kind, hazard, until)
    for age in ages:
        truth = true_rate(hazard, age, until)
        assert truth / 1.33 < model.rate(kind, age) < truth * 1.33


@pytest.mark.parametrize("length", [40.0, 100.0, 300.0])
def test_what_is_used_in_a_loop_is_worth_more_the_nearer_its_use_is(length: float) -> None:
    """The rate is one use over the time that is left: within a third, for most of the loop."""
    model = ReuseModel()
    for _ in range(3000):
        model.waited(Kind.END, 0.0, length)
        model.used(Kind.END, length)
    model.estimate(0.0)
    done = np.arange(0.0, 0.75, 0.05)
    rates = model.rates(np.full(len(done), Kind.END), done * length)
    left = (1.0 - done) * length
    assert np.all((rates * left > 1 / 1.33) & (rates * left < 1.33))
    assert np.all(np.diff(rates[::3]) > 0)


@pytest.mark.parametrize("length", [20.0, 60.0, 200.0, 600.0])
def test_a_dozen_uses_at_one_age_show_that_rates_rise(length: float) -> None:
    """Without them the guess is that they fall."""
    model = ReuseModel()
    for _ in range(12):
        model.waited(Kind.END, 0.0, length)
        model.used(Kind.END, length)
    model.estimate(0.0)
    rates = model.rates(np.full(4, Kind.END), np.array([0.0, 0.25, 0.5, 0.75]) * length)
    assert np.all(np.diff(rates) > 0)


def test_kinds_are_told_apart() -> None:
    model = ReuseModel()
    observe(model, Kind.BRANCH_NEW, constant, 200.0)
    observe(model, Kind.BRANCH_OFTEN, lambda ages: 10 * constant(ages), 200.0)
    for age in (0.0, 10.0, 50.0):
        assert model.rate(Kind.BRANCH_OFTEN, age) > 3 * model.rate(Kind.BRANCH_NEW, age)


def test_what_is_seen_of_all_is_expected_of_a_kind_not_seen() -> None:
    """Its level, as long as nothing else is known of it."""
    model, busier = ReuseModel(), ReuseModel()
    observe(model, Kind.END, constant, 200.0)
    observe(busier, Kind.END, lambda ages: 10 * constant(ages), 200.0)
    assert np.all(each_kind(busier) > each_kind(model))


# ---- without data, and with other data ----


def test_without_data_rates_fall_with_age() -> None:
    rates = each_kind(ReuseModel())
    assert np.all(rates > 0)
    assert np.all(np.diff(rates, axis=1) <= 0)
    later = [_AGES.index(1.0), _AGES.index(15.0), _AGES.index(100.0), _AGES.index(2000.0)]
    assert np.all(np.diff(rates[:, later], axis=1) < 0)


def test_little_data_moves_rates_little() -> None:
    model, fresh = ReuseModel(), ReuseModel()
    model.waited(Kind.END, 0.0, 20.0)
    model.used(Kind.END, 20.0)
    model.estimate(0.0)
    ratio = each_kind(model) / each_kind(fresh)
    assert np.all((ratio > 0.25) & (ratio < 4.0))


def traffic(model: ReuseModel, used: Kind, unused: Kind, ticks: int) -> None:
    """In 4 ticks one of a kind is used again at age 10, and one of another kind goes at age 50."""
    for _ in range(0, ticks, 20):
        for _ in range(5):
            model.waited(used, 0.0, 10.0)
            model.used(used, 10.0)
            model.waited(unused, 0.0, 50.0)
        model.estimate(20.0)


def test_rates_follow_the_traffic() -> None:
    model = ReuseModel()
    first, second = Kind.END, Kind.BRANCH_NEW
    for used, unused in ((first, second), (second, first), (first, second)):
        traffic(model, used, unused, ticks=5000)
        for age in (0.0, 2.0, 5.0):
            assert model.rate(used, age) > 3 * model.rate(unused, age)


def test_what_was_seen_long_ago_counts_less() -> None:
    """The same new traffic moves rates further, the longer ago the old traffic was."""
    rates = []
    for pause in (0.0, 2000.0, 10_000.0):
        model = ReuseModel()
        traffic(model, Kind.END, Kind.OUTGROWN, ticks=2000)
        model.estimate(pause)
        for _ in range(300):
            model.waited(Kind.END, 0.0, 20.0)
        model.estimate(0.0)
        rates.append(model.rate(Kind.END, 5.0))
    soon, later, last = rates
    assert soon > 1.2 * later
    assert later > 1.5 * last


def test_without_events_all_is_forgotten() -> None:
    model = ReuseModel()
    traffic(model, Kind.BRANCH_NEW, Kind.END, ticks=3000)
    model.estimate(1e5)
    assert np.allclose(each_kind(model), each_kind(ReuseModel()), rtol=1e-6)


# ---- one and many ----


def spans(oldest: float, longest: float) -> st.SearchStrategy[list[tuple[Kind, float, float]]]:
    """Kinds, ages at the start and lengths."""
    return st.lists(st.tuples(kinds, st.floats(0.0, oldest), st.floats(0.0, longest)), max_size=30)


def tell(waits: list[tuple[Kind, float, float]]) -> tuple[ReuseModel, ReuseModel]:
    """A model that is told one by one, and one that is told all at once."""
    one_by_one, at_once = ReuseModel(), ReuseModel()
    for kind, start, length in waits:
        one_by_one.waited(kind, start, start + length)
    columns = np.array(waits, dtype=float).reshape(-1, 3).T
    at_once.all_waited(columns[0], columns[1], columns[1] + columns[2])
    return one_by_one, at_once


@given(spans(oldest=30.0, longest=20.0))
def test_many_early_waits_at_once_count_as_one_by_one(
    waits: list[tuple[Kind, float, float]],
) -> None:
    one_by_one, at_once = tell(waits)
    for model in (one_by_one, at_once):
        for kind in Kind:
            model.used(kind, 3.0)
        model.estimate(0.0)
    assert np.allclose(each_kind(one_by_one), each_kind(at_once), rtol=1e-9)


@given(spans(oldest=1e6, longest=1e3))
def test_waits_count_in_full_for_their_kind(waits: list[tuple[Kind, float, float]]) -> None:
    for model in tell(waits):
        for kind in Kind:
            waited = sum(length for other, _, length in waits if other is kind)
            assert np.isclose(model._time[kind].sum(), waited, rtol=1e-9, atol=1e-6)


def test_late_waits_at_once_are_learned_as_one_by_one() -> None:
    """Short against their ages; in all, within a tenth."""
    chooser = np.random.default_rng(1)
    waits = [
        (Kind.END, float(2.0 ** chooser.uniform(6.0, 14.0)), float(chooser.uniform(0.0, 16.0)))
        for _ in range(5000)
    ]
    models = tell(waits)
    for model in models:
        for _, age, _ in waits[:100]:
            model.used(Kind.END, age)
        model.estimate(0.0)
    one_by_one, at_once = (each_kind(model) for model in models)
    assert np.all(np.abs(one_by_one / at_once - 1.0) < 0.1)


@given(st.lists(st.tuples(kinds, st.floats(0.0, 1e9)), max_size=30), st.integers(0, 3))
def test_many_rates_at_once_are_as_one_by_one(wanted: list[tuple[Kind, float]], seed: int) -> None:
    model = ReuseModel()
    observe(model, Kind(seed), rising_then_falling, 300.0, seed)
    columns = np.array(wanted, dtype=float).reshape(-1, 2).T
    expected = [model.rate(kind, age) for kind, age in wanted]
    assert np.allclose(model.rates(*columns), expected, rtol=1e-9, atol=0.0)


# ---- any calls ----

ages = st.floats(0.0, 1e6) | st.sampled_from([0.0, 1e-9, *_EXTREMES])
often = st.integers(1, 300)
calls = st.one_of(
    st.tuples(st.just("used"), kinds, ages, often),
    st.tuples(st.just("waited"), kinds, ages, ages, often),
    st.tuples(st.just("all_waited"), st.lists(st.tuples(kinds, ages, ages), max_size=10)),
    st.tuples(st.just("estimate"), ages),
)


def call(model: ReuseModel, name: str, *values: Any) -> None:
    if name == "used":
        kind, age, times = values
        for _ in range(times):
            model.used(kind, age)
    elif name == "waited":
        kind, start, length, times = values
        for _ in range(times):
            model.waited(kind, start, start + length)
    elif name == "all_waited":
        columns = np.array(values[0], dtype=float).reshape(-1, 3).T
        model.all_waited(columns[0], columns[1], columns[1] + columns[2])
    else:
        model.estimate(*values)


@given(st.lists(calls, max_size=20))
def test_rates_are_positive_numbers_whatever_was_seen(sequence: list[tuple[Any, ...]]) -> None:
    model = ReuseModel()
    for name, *values in [*sequence, ("estimate", 0.0)]:
        call(model, name, *values)
        rates = each_kind(model, _EXTREMES)
        assert np.all(np.isfinite(rates))
        assert np.all(rates > 0)
