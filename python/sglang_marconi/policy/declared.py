"""Which of the places that an application declares get a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.admission import is_worth_its_room


def declared_points(
    places: Iterable[int], resumable_tokens: int, page_size: int, cost: ModelCost
) -> list[int]:
    """The prefix lengths at which a prompt's prefill should leave checkpoints, in tokens, in order.

    Each is at a place, or at the last whole KV page before it. ``resumable_tokens``: the depth of
    the nearest checkpoint that the prompt has, 0 without one. A place whose hit would save too
    little beyond that, or beyond the place before it, gets none.

    >>> from sglang_marconi.cost import preset
    >>> cost = preset("paper-7b")
    >>> declared_points([500, 510, 900], 0, 1, cost)
    [500, 900]
    >>> declared_points([500, 900], 500, 64, cost)
    [896]
    """
    found: list[int] = []
    above = resumable_tokens
    for place in sorted(places):
        at = place // page_size * page_size
        if at > above and is_worth_its_room(above, at, cost):
            found.append(at)
            above = at
    return found
