"""How a checkpoint may be held: exact, in a lossy encoding, on the host; each takes less room."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

LOSSY_LOSS = 0.02
"""Share of a hit's worth that counts as lost where the state is not exact: what a demotion is
weighed with against the eviction of another checkpoint. It stands for "little": a lossy state
saves the same prefill, at a small error. From 0.005 to 0.1 hit rates move by about a point."""
HOST_LOSS = 0.05
"""The same where the state comes back over the host's bus, which takes a small part of the time
that the prefill would."""


class Form(NamedTuple):
    """One way to hold a checkpoint, with the bytes it takes on the device and on the host.

    ``lost``: the share of a hit's worth, from 0 to 1, that counts as given up by this form.
    """

    name: str
    device_bytes: int
    host_bytes: int = 0
    lost: float = 0.0


def forms_of(exact: int, lossy: tuple[str, int] | None = None, *, host: bool = False) -> list[Form]:
    """The forms a checkpoint goes through as memory gets short, the first one first.

    ``exact``: bytes of the state as it is; ``lossy``: name and bytes of the encoding it may be
    demoted to, if any; ``host``: whether it may go on to the host after that, as it is then.
    """
    forms = [Form("exact", exact)]
    if lossy is not None:
        name, size = lossy
        forms.append(Form(name, size, lost=LOSSY_LOSS))
    if host:
        last = forms[-1]
        forms.append(Form("host", 0, last.device_bytes, last.lost + HOST_LOSS))
    return forms


def check_forms(forms: Iterable[Form]) -> tuple[Form, ...]:
    """The forms, each of which must free device memory and lose no less than the one before.

    Raises:
        ValueError: one does not.
    """
    checked = tuple(forms)
    for form, after in pairwise(checked):
        if after.device_bytes >= form.device_bytes or after.lost < form.lost:
            raise ValueError(f"a checkpoint would gain nothing by going from {form} to {after}")
    return checked
