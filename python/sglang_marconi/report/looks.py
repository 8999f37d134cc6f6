"""One colour and one marker for each policy, the same in every plot."""

from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import NamedTuple


class Look(NamedTuple):
    colour: str
    marker: str


Looks = Mapping[str, Look]

# Okabe and Ito's colours, which people with any colour vision tell apart; from what a policy is
# compared with to what bounds it.
_KNOWN = {
    "vllm+": Look("#E69F00", "s"),
    "sglang+": Look("#CC79A7", "D"),
    "lru": Look("#56B4E9", "^"),
    "marconi": Look("#0072B2", "o"),
    "auto": Look("#D55E00", "P"),
    "oracle": Look("#009E73", "*"),
    "unlimited": Look("#444444", "X"),
}
# Darker ones, of Tol's "muted" set. Their number and the markers' have no common divisor, so
# that thirty policies differ in one or the other.
_OTHER_COLOURS = ("#332288", "#882255", "#999933", "#117733", "#AA4499")
_OTHER_MARKERS = ("v", "<", ">", "h", "p", "d")

# Of the same set: what a cache holds is not a policy.
STATES_COLOUR = "#44AA99"
KV_COLOUR = "#DDCC77"


def looks(policies: Iterable[str]) -> Looks:
    """A look for each policy, in the order to show them: the known ones, then by name."""
    present = set(policies)
    known = {policy: look for policy, look in _KNOWN.items() if policy in present}
    cycled = zip(cycle(_OTHER_COLOURS), cycle(_OTHER_MARKERS), strict=False)
    others = zip(sorted(present - known.keys()), cycled, strict=False)
    return known | {policy: Look(*look) for policy, look in others}
