"""What a prefix is worth: how soon it will be used again, times what a hit on it saves."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import floor, inf

import numpy as np

from sglang_marconi.policy.choice import Place
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.ranking import Candidate, Placed, Ranking, Standing, Valuation
from sglang_marconi.policy.reuse import ENDS, Kind, ReuseModel
from sglang_marconi.policy.table import Table
from sglang_marconi.policy.tiers import Ordered, Tiers

# Rates change slowly, and ever more so: ticks between two estimates, from the first ones on.
_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_SHARE = 4.0, 64.0, 1 / 32
# Candidates for each tick between two looks at all of them.
_CANDIDATES_PER_TICK = 64
_SHORTLIST = 256
_MARGIN = 3.0
"""A new checkpoint is refused if what goes first is worth so many times as much. The worth of
what nobody has used yet is a guess: refused as soon as it is less, new conversations never come
in where the cache is small (measured: up to 11 points of hit rate lost). But a state that is kept
for a prediction never displaces what is known to be worth more."""

# What is usual for ends, in parts; from there on they are of kinds of their own.
_LESS_LIKELY, _MORE_LIKELY = 0.4, 1.6
# From here on a guess is a likely one.
_LIKELY_GUESS = 0.3
_WHERE_PROMPTS_PART = frozenset({Place.BRANCH, Place.DECLARED, Place.BOUNDARY})
_CERTAIN = {
    Place.BRANCH: Kind.BRANCH_NEW,
    Place.WAITING: Kind.WAITED,
    Place.DECLARED: Kind.DECLARED,
}

# Where all goes before it is used again, nothing can be learned: as long as fewer ends than one in
# so many are used, that many are kept for this many times as long as others last.
_EXPLORE_ONE_IN = 32
_EXPLORE_LIFETIMES = 3.0
_LIFETIME_WEIGHT = 0.1


class PredictedReuse(Valuation):
    """FLOPs to be saved for each byte and tick that a prefix is kept; no parameter.

    It knows kind, age, past uses and depth of a node, and learns from all of them which are used
    again (``reuse``). What nothing can resume at goes first, the oldest before the others.

    Some ends are kept longer than they seem worth, to see whether ends are used later than they
    are kept: a loop larger than memory shows itself in no other way.
    """

    weighs_guesses = True

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.model = ReuseModel()
        self.now = 0.0
        self._estimated_at = 0.0
        # Kind, last use, and since when it is of that kind; those that have a state.
        self._watched: Table[PrefixNode] = Table(3)
        # How much later each explorer counts as used, in ticks.
        self._explorers: dict[PrefixNode, float] = {}
        # Ends stored since the last explorer.
        self._unexplored = 0
        # Age of ends when they go, a moving average.
        self._lifetime = 0.0

    def ranking(self) -> Ranking:
        return _PredictedRanking(self)

    def seen(self, node: PrefixNode, now: float) -> None:
        now = self._advance(now)
        before, kind = self._watched.get(node), kind_of(node)
        if before is None:
            self._watched.put(node, kind, floor(node.last_use), now)
            if kind in ENDS:
                self._choose_explorer(node)
        elif before[0] != kind:
            self._count_time(*before)
            self._watched.put(node, kind, floor(node.last_use), now)

    def used(self, node: PrefixNode, now: float) -> None:
        now = self._advance(now)
        self._explorers.pop(node, None)
        before = self._watched.get(node)
        # Within one tick it is the request itself that comes back to what it has stored.
        if before is not None and now > before[1]:
            self._count_time(*before)
            self.model.used(int(before[0]), now - before[1])
            self._watched.put(node, before[0], now, now)

    def gone(self, node: PrefixNode, now: float) -> None:
        now = self._advance(now)
        before = self._watched.get(node)
        if before is not None:
            self._count_time(*before)
            self._watched.discard(node)
            if before[0] in ENDS and node not in self._explorers:
                age = now - before[1]
                change = _LIFETIME_WEIGHT * (age - self._lifetime)
                self._lifetime = self._lifetime + change if self._lifetime else age
        self._explorers.pop(node, None)

    def last_use(self, node: PrefixNode) -> float:
        """When ``node`` counts as last used; for an explorer, in the future."""
        return node.last_use + self._explorers.get(node, 0.0)

    def _choose_explorer(self, node: PrefixNode) -> None:
        self.model.stored_end()
        self._unexplored += 1
        if self._unexplored < _EXPLORE_ONE_IN:
            return
        if self.model.share_of_ends_used() < 1.0 / _EXPLORE_ONE_IN:
            self._unexplored = 0
            self._explorers[node] = _EXPLORE_LIFETIMES * self._lifetime

    def _count_time(self, kind: float, last_use: float, since: float) -> None:
        start = max(since, self._estimated_at)
        self.model.waited(int(kind), start - last_use, self.now - last_use)

    def _advance(self, now: float) -> float:
        """The time in whole ticks: what counts must not depend on the order within one."""
        self.now = now = float(floor(now))
        pause = min(max(_FIRST_PAUSE, _PAUSE_SHARE * now), _LONGEST_PAUSE)
        if now < self._estimated_at + pause:
            return now
        kinds, last_use, since = self._watched.columns
        starts = np.maximum(since, self._estimated_at)
        self.model.all_waited(kinds, starts - last_use, now - last_use)
        self.model.estimate(now - self._estimated_at)
        self._estimated_at = now
        return now


def kind_of(node: PrefixNode) -> Kind:
    """What a node with a state is to `ReuseModel`."""
    if node.place >= Place.WAITING:
        kind = _kind_of_kept(node)
        if kind is not None:
            return kind
    if not _is_branch_point(node):
        if node.children:
            return Kind.OUTGROWN
        if not _LESS_LIKELY <= node.chance <= _MORE_LIKELY:
            return _kind_of_new(Place.END, node.chance)
        return Kind.OFFSHOOT if node.offshoot else Kind.END
    if node.hits < 2:
        return Kind.BRANCH_ONCE if node.hits else Kind.BRANCH_NEW
    return Kind.BRANCH_TWICE if node.hits < 4 else Kind.BRANCH_OFTEN


def _is_branch_point(node: PrefixNode) -> bool:
    """Whether prompts part there: they do where a state that was kept for it is used, though all
    but one of them may have left the tree."""
    return node.branched or (node.hits > 0 and node.place in _WHERE_PROMPTS_PART)


def _kind_of_kept(node: PrefixNode) -> Kind | None:
    """What it is by what its state is kept for; ``None`` once the shape of the tree tells more."""
    if node.place is Place.WAITING:
        return Kind.WAITED
    if node.place is Place.PROMPT and node.hits:
        return Kind.PROMPT_USED
    return None if node.hits else _kind_of_new(node.place, node.chance)


def _kind_of_new(place: Place, chance: float) -> Kind:
    """What it is before anything has used it, but for the shape of the tree."""
    if place is Place.END:
        if chance > _MORE_LIKELY:
            return Kind.END_LIKELY
        return Kind.END_UNLIKELY if chance < _LESS_LIKELY else Kind.END
    if place.is_guess:
        likely = chance >= _LIKELY_GUESS
        if place is Place.PROMPT:
            return Kind.PROMPT_LIKELY if likely else Kind.PROMPT
        return Kind.BOUNDARY_LIKELY if likely else Kind.BOUNDARY
    return _CERTAIN[place]


class Tier(Ordered):
    """What goes before others, however much these are worth."""

    STATELESS = "nothing resumes there"
    CHECKPOINT = "checkpoints"
    STATELESS_OF_SESSION = "nothing resumes there, of a session"
    CHECKPOINT_OF_SESSION = "checkpoints of a session"

    @classmethod
    def of(cls, candidate: Candidate) -> Tier:
        if candidate.referenced:
            return cls.CHECKPOINT_OF_SESSION if candidate.resumable else cls.STATELESS_OF_SESSION
        return cls.CHECKPOINT if candidate.resumable else cls.STATELESS


class _PredictedRanking(Ranking):
    def __init__(self, value: PredictedReuse) -> None:
        self._value = value
        self._tiers: Tiers[PrefixNode, Tier, _Oldest | _Shortlist] = Tiers(
            {
                Tier.STATELESS: _Oldest(),
                Tier.CHECKPOINT: _Shortlist(value),
                Tier.STATELESS_OF_SESSION: _Oldest(),
                Tier.CHECKPOINT_OF_SESSION: _Shortlist(value),
            }
        )

    def place(self, node: PrefixNode, candidate: Candidate) -> None:
        last_use = self._value.last_use(node)
        self._tiers.put(Tier.of(candidate), node, last_use, candidate.efficiency)

    def discard(self, node: PrefixNode) -> None:
        self._tiers.discard(node)

    def least_useful(self) -> PrefixNode | None:
        queue = self._tiers.first()
        return None if queue is None else queue.first()

    def standing(self, node: PrefixNode) -> Standing | None:
        found = self._tiers.find(node)
        if found is None:
            return None
        tier, queue = found
        return Standing(tier.words, queue.score(node))

    def placed(self) -> Iterator[Placed]:
        for tier, queue in self._tiers.queues():
            for node, kind, efficiency, last_use in queue.placed():
                yield Placed(node, f"{tier.words}{kind}", efficiency, last_use)

    def admits(self, efficiency: float, place: Place, chance: float) -> bool:
        worth = efficiency * self._value.model.rate(_kind_of_new(place, chance), 0.0)
        queue = self._tiers.first()
        margin = 1.0 if place.is_guess else _MARGIN
        return worth * margin >= (0.0 if queue is None else queue.lowest())


class _Oldest:
    """Candidates whose efficiency does not count."""

    def __init__(self) -> None:
        self._recency: Table[PrefixNode] = Table(1)

    def __len__(self) -> int:
        return len(self._recency)

    def put(self, node: PrefixNode, last_use: float, _efficiency: float) -> None:
        self._recency.put(node, last_use)

    def discard(self, node: PrefixNode) -> None:
        self._recency.discard(node)

    def first(self) -> PrefixNode:
        return self._recency.owner_of_least(0)

    def lowest(self) -> float:
        return 0.0

    def score(self, _node: PrefixNode) -> float:
        return 0.0

    def placed(self) -> Iterator[tuple[PrefixNode, str, float, float]]:
        for node, (last_use,) in self._recency.rows():
            yield node, "", 0.0, last_use


# Score, last use, a number that no other has, the candidate.
_Entry = tuple[float, float, int, PrefixNode]


class _Shortlist:
    """Candidates by score: efficiency times the rate of use.

    All are scored every now and then, and those that change in between when they do; the lowest
    of them are kept in a heap. Of equal scores the one used longest ago goes first.
    """

    def __init__(self, value: PredictedReuse) -> None:
        self._value = value
        # Efficiency, last use, kind.
        self._rows: Table[PrefixNode] = Table(3)
        # The heap's entries that count; others are out of date.
        self._entries: dict[PrefixNode, _Entry] = {}
        self._heap: list[_Entry] = []
        # Nothing outside the heap scored less, when all were scored.
        self._limit = inf
        self._scored_at = 0.0
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, node: PrefixNode, last_use: float, efficiency: float) -> None:
        kind = kind_of(node)
        self._rows.put(node, efficiency, last_use, kind)
        age = max(self._value.now - floor(last_use), 0.0)
        self._pushed += 1
        entry = efficiency * self._value.model.rate(kind, age), last_use, self._pushed, node
        self._entries[node] = entry
        heappush(self._heap, entry)

    def discard(self, node: PrefixNode) -> None:
        self._rows.discard(node)
        self._entries.pop(node, None)

    def first(self) -> PrefixNode:
        return self._least()[3]

    def lowest(self) -> float:
        return self._least()[0]

    def score(self, node: PrefixNode) -> float:
        row = self._rows.get(node)
        assert row is not None
        efficiency, last_use, kind = row
        age = max(self._value.now - floor(last_use), 0.0)
        return efficiency * self._value.model.rate(int(kind), age)

    def placed(self) -> Iterator[tuple[PrefixNode, str, float, float]]:
        for node, (efficiency, last_use, kind) in self._rows.rows():
            yield node, f" of kind {Kind(int(kind)).name}", efficiency, last_use

    def _least(self) -> _Entry:
        every = max(_FIRST_PAUSE, len(self._rows) / _CANDIDATES_PER_TICK)
        if self._value.now >= self._scored_at + every:
            self._score_all()
        while True:
            while self._heap:
                entry = self._heap[0]
                if self._entries.get(entry[3]) is not entry:
                    heappop(self._heap)
                elif entry[0] <= self._limit:
                    return entry
                else:
                    break
            self._score_all()

    def _score_all(self) -> None:
        self._scored_at = self._value.now
        efficiency, last_use, kinds = self._rows.columns
        ages = np.maximum(self._scored_at - np.floor(last_use), 0.0)
        scores = efficiency * self._value.model.rates(kinds, ages)
        self._limit = inf
        chosen = np.arange(len(scores))
        if len(scores) > _SHORTLIST:
            order = np.argpartition(scores, _SHORTLIST)
            self._limit = scores.item(order[_SHORTLIST])
            chosen = np.sort(order[:_SHORTLIST])
        owners, rows = self._rows.owners, chosen.tolist()
        columns = scores[chosen].tolist(), last_use[chosen].tolist(), rows
        self._heap = list(zip(*columns, map(owners.__getitem__, rows), strict=True))
        self._entries = {entry[3]: entry for entry in self._heap}
        self._pushed = len(owners)
        heapify(self._heap)
