"""Who subscribes hears of what happens, in order; who fails is not asked again."""

from __future__ import annotations

import time

from sglang_marconi.events import (
    Cleared,
    Decision,
    Observer,
    Refusal,
    Refused,
    Timed,
    timed,
)
from sglang_marconi.policy.ledger import PrefixNode

REFUSED = Refused(Refusal.ROOM)


def test_listeners_hear_in_the_order_of_subscription() -> None:
    observer, heard = Observer(), list[str]()
    observer.on(Refused, lambda event: heard.append(f"first {event.refusal}"))
    observer.on(Refused, lambda event: heard.append(f"second {event.refusal}"))
    observer.emit(REFUSED)
    observer.emit(Cleared(PrefixNode(0, None, 0, 0.0)))
    assert heard == ["first room", "second room"]


class _Fails:
    def __init__(self, observer: Observer) -> None:
        self.heard = 0
        observer.on(Cleared, self.cleared)
        observer.on(Refused, self.refused)

    def cleared(self, _event: Cleared) -> None:
        self.heard += 1

    def refused(self, _event: Refused) -> None:
        raise RuntimeError


def test_who_fails_is_heard_of_once_and_switched_off_as_a_whole() -> None:
    observer, heard = Observer(), list[Refused]()
    fails = _Fails(observer)
    observer.on(Refused, heard.append)
    cleared = Cleared(PrefixNode(0, None, 0, 0.0))
    observer.emit(cleared)
    observer.emit(REFUSED)
    observer.emit(cleared)
    observer.emit(REFUSED)
    assert fails.heard == 1
    assert heard == [REFUSED, REFUSED]


def test_a_decision_is_the_same_timed_or_not() -> None:
    observer, heard = Observer(), list[Timed]()
    observer.on(Timed, heard.append)

    def decide(first: int, second: int) -> int:
        time.sleep(0.02)
        return max(first, second)

    assert timed(None, Decision.MATCH, decide, 3, 5) == 5
    start = time.perf_counter()
    assert timed(observer, Decision.MATCH, decide, 3, 5) == 5
    most = time.perf_counter() - start
    assert [event.decision for event in heard] == [Decision.MATCH]
    assert 0.02 <= heard[0].seconds <= most
