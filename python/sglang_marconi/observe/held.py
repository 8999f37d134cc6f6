"""How many checkpoints there are, by form, and where that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from sglang_marconi.events import Cleared, Dropped, Observer, Reformed, Stored
from sglang_marconi.policy.forms import Form


class Place(NamedTuple):
    """Where a checkpoint in a form is: on a tier, in an encoding, in so many bytes."""

    tier: str
    encoding: str
    size: int


class Memory(NamedTuple):
    """What checkpoints may fill: bytes by tier, and how many a store page has.

    Where they have no store of their own, a slot of the state pool counts as one.
    """

    capacity: Mapping[str, int]
    page_bytes: int


class Held:
    """Counts checkpoints from an observer's events."""

    def __init__(self, observer: Observer, forms: Sequence[Form]) -> None:
        self.forms = forms
        self.places = places(forms)
        # By the number of the form.
        self.counts = [0] * len(forms)
        observer.on(Stored, self._stored)
        observer.on(Dropped, self._dropped)
        observer.on(Reformed, self._reformed)
        observer.on(Cleared, self._cleared)

    def by_form(self) -> dict[str, int]:
        """Checkpoints by the name of their form."""
        return {form.name: count for form, count in zip(self.forms, self.counts, strict=True)}

    def _stored(self, event: Stored) -> None:
        self.counts[event.node.form] += 1

    def _dropped(self, event: Dropped) -> None:
        self.counts[event.node.form] -= 1

    def _reformed(self, event: Reformed) -> None:
        self.counts[event.before] -= 1
        self.counts[event.node.form] += 1

    def _cleared(self, _event: Cleared) -> None:
        self.counts = [0] * len(self.forms)


def places(forms: Sequence[Form]) -> list[Place]:
    """Where the forms are; on the host a checkpoint is as it was before."""
    on_device = [Place("device", form.name, form.device_bytes) for form in forms]
    return on_device[:1] + [
        Place("host", before.name, form.host_bytes) if form.host_bytes else place
        for (before, form), place in zip(pairwise(forms), on_device[1:], strict=True)
    ]
