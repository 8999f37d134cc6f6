"""What the tuner replays and when, and what it chooses."""

from functools import partial

import psutil
import pytest
from sglang_marconi.simulate.drift import Sample, drifted
from sglang_marconi.simulate.replays import ParallelReplays, ReplayFailed
from sglang_marconi.simulate.tuner import ALPHAS, LONGEST, SHORTEST, WINDOW, Replay, Tuner
from sglang_marconi.tuning.shadow import shadow_cache
from support import tuning_workload as workload


def _tuner(setup):
    """As the sidecar makes it."""
    return Tuner(partial(shadow_cache, setup), setup.alpha, setup.candidates)


def _collect(job):
    return ParallelReplays(job).collect()


def _first_job(tuner, requests):
    """The first job, and how many requests it took."""
    for served, request in enumerate(requests, 1):
        job = tuner.serve(request)
        if job is not None:
            return job, served
    raise AssertionError("no window was full")


def _before_eviction(requests, setup):
    cache = shadow_cache(setup)
    for count, request in enumerate(requests, 1):
        cache.serve(request)
        if cache.evictions:
            return count
    raise AssertionError("nothing was evicted")


def _by_hand(requests, setup, start, end, alpha):
    """Hits on requests ``[start, end)`` under ``alpha``, with all before under the present one."""
    cache = shadow_cache(setup)
    for request in requests[:start]:
        cache.serve(request)
    cache.policy.valuation.alpha = alpha
    return [cache.serve(request) for request in requests[start:end]]


@pytest.mark.parametrize("turns", [workload.documents(300), workload.conversations(300)])
@pytest.mark.parametrize("current", [0.0, 1.3])
def test_every_candidate_is_replayed_as_by_hand(turns, current):
    requests, setup = workload.requests(turns), workload.setup(current)
    tuner = _tuner(setup)
    job, served = _first_job(tuner, requests)
    results = _collect(job)
    assert set(results) == set(ALPHAS)
    start = served - len(job.requests)
    by_hand = {alpha: _by_hand(requests, setup, start, served, alpha) for alpha in ALPHAS}
    for alpha, hits in by_hand.items():
        assert results[alpha].hit_tokens == sum(hits), alpha
        fractions = [
            hit / len(request.prompt)
            for hit, request in zip(hits, requests[start:served], strict=True)
        ]
        assert results[alpha].fractions == Sample.of(fractions)
    assert len({sum(hits) for hits in by_hand.values()}) > 1, "alpha does not matter here"
    best = tuner.adopt(results)
    assert sum(by_hand[best]) == max(map(sum, by_hand.values()))
    assert tuner.alpha == best


def test_documents_are_served_better_by_an_alpha_above_0():
    tuner = _tuner(workload.setup(0.0))
    job, _ = _first_job(tuner, workload.requests(workload.documents(300)))
    results = _collect(job)
    assert tuner.adopt(results) > 0
    assert results[tuner.alpha].hit_tokens > 2 * results[0.0].hit_tokens


@pytest.mark.parametrize("slots", [3, 8, 40, 250])
def test_a_window_is_so_many_times_what_fitted(slots):
    setup = workload.setup(state_bytes=slots * workload.COST.state_bytes)
    requests = workload.requests(workload.one_offs(1500))
    before = _before_eviction(requests, setup)
    tuner = _tuner(setup)
    job, served = _first_job(tuner, requests)
    assert len(job.requests) == min(max(WINDOW * before, SHORTEST), LONGEST)
    assert served == before + len(job.requests)
    assert tuner.window_length == len(job.requests)


def test_without_eviction_nothing_is_tuned():
    tuner = _tuner(workload.setup(state_bytes=10**9))
    assert not any(map(tuner.serve, workload.requests(workload.documents(200))))
    assert tuner.window_length is None


def _jobs(tuner, requests):
    """The numbers of the requests at which there was a job; each is done at once."""
    jobs = []
    for number, request in enumerate(requests):
        job = tuner.serve(request)
        if job is not None:
            jobs.append(number)
            tuner.adopt(_collect(job))
    return jobs


def test_steady_traffic_is_tuned_once():
    requests = workload.requests(workload.documents(800))
    assert len(_jobs(_tuner(workload.setup()), requests)) == 1


def test_drift_is_tuned_again():
    before = workload.requests(workload.documents(360))
    after = workload.requests(workload.conversations(360, sessions=3))
    tuner = _tuner(workload.setup())
    jobs = _jobs(tuner, [*before, *after])
    assert len(jobs) >= 2
    assert len(before) < jobs[1] < len(before) + 2 * tuner.window_length


def test_after_a_change_of_alpha_the_shadow_is_where_the_live_cache_is():
    """A second job replays from where the first alpha, then the tuned one have led."""
    requests = workload.requests(workload.documents(600, busy_from=300))
    setup = workload.setup()
    tuner = _tuner(setup)
    job, changed = _first_job(tuner, requests)
    tuner.adopt(_collect(job))
    job, served = _first_job(tuner, requests[changed:])
    results = _collect(job)
    end = changed + served
    start = end - len(job.requests)
    assert start > changed + len(job.requests), "there are windows between"
    for alpha in ALPHAS:
        live = shadow_cache(setup)
        for request in requests[:changed]:
            live.serve(request)
        live.policy.valuation.alpha = tuner.alpha
        for request in requests[changed:start]:
            live.serve(request)
        live.policy.valuation.alpha = alpha
        assert sum(map(live.serve, requests[start:end])) == results[alpha].hit_tokens, alpha


def test_while_a_job_runs_there_is_no_other_and_then_a_new_window():
    requests = workload.requests(workload.one_offs(500))
    tuner = _tuner(workload.setup())
    job, served = _first_job(tuner, requests)
    results = _collect(job)
    assert not any(map(tuner.serve, requests[served : served + 130]))
    tuner.adopt(results)
    drifting = workload.requests(workload.conversations(200, sessions=2))
    at = [number for number, request in enumerate(drifting, 1) if tuner.serve(request)]
    assert at == [tuner.window_length]


def test_a_job_that_failed_is_followed_by_another():
    requests = workload.requests(workload.one_offs(500))
    tuner = _tuner(workload.setup())
    _, served = _first_job(tuner, requests)
    tuner.give_up()
    _, again = _first_job(tuner, requests[served:])
    assert again == tuner.window_length
    assert tuner.alpha == 0.0


@pytest.mark.parametrize(
    ("hits", "best"),
    [
        ({0.0: 5, 1.0: 5, 0.5: 5}, 0.5),
        ({0.0: 5, 1.0: 5, 0.5: 4}, 0.0),
        ({2.0: 5, 1.0: 5, 0.5: 4}, 1.0),
        ({0.0: 5, 1.0: 6, 0.5: 5}, 1.0),
    ],
)
def test_ties_go_to_the_current_alpha_then_to_the_smaller(hits, best):
    tuner = _tuner(workload.setup(0.5))
    sample = Sample(0.5, 0.1, 50)
    assert tuner.adopt({alpha: Replay(hit, sample) for alpha, hit in hits.items()}) == best


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        # Standard error sqrt(.04 / 100 + .05 / 100) = .03; four of them are .12.
        (Sample(0.5, 0.04, 100), Sample(0.615, 0.05, 100), False),
        (Sample(0.5, 0.04, 100), Sample(0.625, 0.05, 100), True),
        (Sample(0.625, 0.04, 100), Sample(0.5, 0.05, 100), True),
        (Sample(0.0, 0.0, 50), Sample(0.0, 0.0, 50), False),
        (Sample(0.0, 0.0, 50), Sample(0.01, 0.0, 50), True),
    ],
)
def test_drift_is_four_standard_errors(before, now, expected):
    assert drifted(before, now) is expected


def test_a_replay_that_fails_fails_the_job(capfd):
    tuner = _tuner(workload.setup())
    job, _ = _first_job(tuner, workload.requests(workload.documents(300)))
    # Other tests may have left children of their own.
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(ReplayFailed):
        _collect(job._replace(candidates=("nonsense", 1.0)))
    assert "Traceback" in capfd.readouterr().err
    assert {child.pid for child in psutil.Process().children()} <= before
