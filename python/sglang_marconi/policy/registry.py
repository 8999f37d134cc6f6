"""The eviction policies by name, which the server, the simulator, the commands and the docs read.

To add one: a `Valuation` in a file of this folder, and a line in `POLICIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sglang_marconi.policy.ranking import Valuation


class Policy(NamedTuple):
    """What goes first, for those who choose; and the class that says so, made without arguments.

    ``valuation`` is "module:class" of this folder, imported when it is made, so that reading names
    needs no numpy. ``is_baseline``: simulated to compare others with, not offered to servers.
    """

    description: str
    valuation: str
    is_baseline: bool = False


POLICIES: Mapping[str, Policy] = {
    "auto": Policy(
        "predicted reuse times the FLOPs saved per byte, no parameter", "prediction:PredictedReuse"
    ),
    "marconi": Policy(
        "the paper's utility, recency and alpha times the FLOPs saved per byte",
        "utility:PaperUtility",
    ),
    "lru": Policy("LRU on nodes with at most one child", "utility:PaperUtility", is_baseline=True),
}

SERVED = tuple(name for name, policy in POLICIES.items() if not policy.is_baseline)
"""Those that a server may run."""

DEFAULT = "auto"

TUNED = "marconi"
"""The one with a weight, alpha, which is tuned where none is given."""

BASELINE = "lru"
"""What others are compared with."""


def make_valuation(name: str) -> Valuation:
    """A new valuation of this policy, which has learned nothing; its alpha, if any, is 0: LRU."""
    made: Valuation = resolve_name(f"{__package__}.{POLICIES[name].valuation}")()
    made.name = name
    return made
