"""The contents of ``/marconi/state.json``.

Lengths are in tokens, ages and ticks in insertions, times in seconds since the epoch. Prefixes are
named by a keyed hash; there is no text.
"""

from __future__ import annotations

from msgspec import Struct


class Node(Struct, frozen=True):
    """A node of the tree: the prefix that ends after ``start + tokens`` tokens.

    Attributes:
        id: the prefix's name.
        parent: the parent's place in the list, -1 for the root.
        start: where it begins.
        tokens: how long it is beyond its parent.
        form: of its checkpoint; ``None`` without one.
        score: what decides when the checkpoint goes; the lowest goes first. ``None``: not now.
        group: the group in which it does; ``None``: not now.
        age: since its last use.
        hits: how often its checkpoint was used.
        locked: requests run on it, or below.
        nodes, hidden_tokens, checkpoints: what is below it and not in the list.
    """

    id: str
    parent: int
    start: int
    tokens: int
    form: str | None
    score: float | None
    group: str | None
    age: int
    hits: int
    locked: bool
    nodes: int
    hidden_tokens: int
    checkpoints: int


class Eviction(Struct, frozen=True):
    """What went, and why.

    Attributes:
        time: when.
        id: the prefix's name.
        what: ``state``, or ``leaf`` for its KV too.
        kind: what its checkpoint was to the tree; ``stateless`` without one.
        depth: tokens of the prefix.
        age: since its last use.
        hits: how often its checkpoint was used.
        group, score: as in `Node`, when it was chosen.
    """

    time: float
    id: str
    what: str
    kind: str
    depth: int
    age: int
    hits: int
    group: str | None
    score: float | None


class Interval(Struct, frozen=True):
    """Prompt tokens of the requests that began in so many seconds from ``time``, and those hit."""

    time: float
    seconds: float
    prompt_tokens: int
    hit_tokens: int
    recomputed_tokens: int
    requests: int


class State(Struct, frozen=True):
    """One cache.

    Attributes:
        time: of the snapshot.
        policy: ``auto`` or ``marconi``.
        alpha: the latter's.
        ticks: insertions so far.
        nodes, tokens, checkpoints: in the whole tree, the root not counted.
        checkpoint_forms: checkpoints by form.
        checkpoint_capacity_bytes: by tier.
        tree: the nodes with most tokens below them, each after its parent.
        evictions: the latest, the last one first.
        intervals: in order.
        snapshot_seconds: what the scheduler spent on this.
    """

    time: float
    policy: str
    alpha: float | None
    ticks: int
    nodes: int
    tokens: int
    checkpoints: int
    checkpoint_forms: dict[str, int]
    checkpoint_capacity_bytes: dict[str, int]
    tree: list[Node]
    evictions: list[Eviction]
    intervals: list[Interval]
    snapshot_seconds: float
