"""The benchmark's clock on a device that is played: what it takes, not what its launch takes."""

from __future__ import annotations

from typing import Any

import bench_pool
import pytest
import torch

MICROSECONDS_A_CYCLE = 1 / 2000


class Device:
    """A queue of work and the host's time, in microseconds; both go on at once."""

    def __init__(self) -> None:
        self.host = 0.0
        self.busy_until = 0.0
        self.slept = 0.0

    def launch(self, microseconds: float) -> float:
        """Queue work; when it will be done."""
        self.busy_until = max(self.host, self.busy_until) + microseconds
        return self.busy_until

    def sleep(self, cycles: int) -> None:
        self.slept = cycles * MICROSECONDS_A_CYCLE
        self.launch(self.slept)

    def event(self, **_: Any) -> Event:
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self.device, self.at = device, 0.0

    def record(self) -> None:
        self.at = self.device.launch(0.0)

    def query(self) -> bool:
        return self.at <= self.device.host

    def synchronize(self) -> None:
        self.device.host = max(self.device.host, self.at)

    def elapsed_time(self, end: Event) -> float:
        return (end.at - self.at) / 1e3


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "_sleep", device.sleep)
    return device


def measured(device: Device, launch: float, work: float, first_launch: float = 0.0) -> float:
    launches = iter([first_launch])

    def call() -> None:
        device.host += next(launches, launch)
        device.launch(work)

    clock = bench_pool.Clock(torch.device("cpu"), repeats=3)
    # A device's clock whose cache to overwrite is empty.
    clock._device = torch.device("cuda")
    return clock.microseconds(call)


@pytest.mark.parametrize("launch", [1.0, 100.0, 1_000.0, 20_000.0])
def test_the_hosts_time_to_launch_is_not_counted(device: Device, launch: float) -> None:
    assert measured(device, launch, work=50.0) == pytest.approx(50.0)


def test_a_slow_first_call_lengthens_no_sleep(device: Device) -> None:
    assert measured(device, 100.0, 50.0, first_launch=3e6) == pytest.approx(50.0)
    assert device.slept == bench_pool.FIRST_SLEEP_CYCLES * MICROSECONDS_A_CYCLE


def test_a_launch_longer_than_the_longest_sleep_ends(device: Device) -> None:
    longest = bench_pool.LONGEST_SLEEP_CYCLES * MICROSECONDS_A_CYCLE
    assert measured(device, 2 * longest, work=50.0) > longest
