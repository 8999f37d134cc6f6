"""Dicts of what a cache that requests use must then hold, and of what it must evict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.prediction import PredictedReuse
from sglang_marconi.policy.ranking import Valuation
from sglang_marconi.policy.utility import PaperUtility

from support.watched_tree import Evicted, Tokens

# What a use adds to the policy's clock, which an insertion moves on to the next whole number.
_USE = 2.0**-20
# Utilities that differ by less are equal.
_TIE = 1e-9


@dataclass
class Prefix:
    """A node of the tree; times are insertions, uses in between count as parts of one."""

    last_use: float
    slot: int | None = None


@dataclass(frozen=True)
class Row:
    """A candidate for eviction."""

    rank: int
    recency: float
    efficiency: float


class Expected:
    """What the tree must hold, by prefix; what that implies is worked out when asked for.

    Without ``alpha`` reuse is predicted: what goes first of the candidates is not foretold.
    """

    def __init__(self, page: int, cost: ModelCost, *, alpha: float | None) -> None:
        self.page = page
        self.cost = cost
        self.alpha = alpha
        self.clear()

    def clear(self) -> None:
        self.now = 0.0
        self.nodes: dict[Tokens, Prefix] = {}
        # The KV slots of the last page of each prefix of whole pages.
        self.kv: dict[Tokens, list[int]] = {}
        # Locked prefixes, and whether the state there is locked, too.
        self.locks: list[tuple[Tokens, bool]] = []

    # ---- shape ----

    def whole(self, tokens: Iterable[int]) -> Tokens:
        """As much of ``tokens`` as fills pages."""
        tokens = tuple(tokens)
        return tokens[: len(tokens) // self.page * self.page]

    def above(self, prefix: Tokens) -> list[Tokens]:
        """The nodes on the path to ``prefix``, without it, the deepest first."""
        starts = (prefix[:end] for end in range(len(prefix) - self.page, 0, -self.page))
        return [start for start in starts if start in self.nodes]

    def parent(self, prefix: Tokens) -> Tokens:
        return next(iter(self.above(prefix)), ())

    def children(self) -> Counter[Tokens]:
        """How many children each node has."""
        return Counter(map(self.parent, self.nodes))

    def shared(self, tokens: Iterable[int]) -> Tokens:
        """The longest start of ``tokens`` that the tree has KV of."""
        shared = self.whole(tokens)
        while shared and shared not in self.kv:
            shared = shared[: -self.page]
        return shared

    def resumable(self, tokens: Iterable[int]) -> Tokens:
        """The longest start of ``tokens`` that has a state."""
        shared = self.shared(tokens)
        path = [*([shared] if shared in self.nodes else []), *self.above(shared)]
        return next((node for node in path if self.nodes[node].slot is not None), ())

    # ---- what happens ----

    def split(self, shared: Tokens) -> None:
        """A node ends where the shared prefix does."""
        if shared and shared not in self.nodes:
            below = min((node for node in self.nodes if node[: len(shared)] == shared), key=len)
            self.nodes[shared] = Prefix(self.nodes[below].last_use)

    def use(self, prefix: Tokens) -> None:
        self.now += _USE
        self.nodes[prefix].last_use = self.now

    def match(self, tokens: Iterable[int]) -> tuple[Tokens, Tokens, int | None]:
        """The prefix to resume from, the one that is shared, and the branch to keep."""
        shared, best = self.shared(tokens), self.resumable(tokens)
        self.split(shared)
        branches = bool(shared) and (self.children()[shared] > 0 or self.holds_kv(shared))
        return best, shared, len(shared) if branches and shared != best else None

    def insert(self, tokens: Iterable[int], slots: Sequence[int], state: int | None) -> bool:
        """KV in ``slots``, and a state; whether there was one already."""
        self.now = float(int(self.now) + 1)
        tokens = self.whole(tokens)
        if not tokens:
            return True
        shared = self.shared(tokens)
        self.split(shared)
        if shared != tokens:
            self.nodes[tokens] = Prefix(self.now)
            for start in range(len(shared), len(tokens), self.page):
                end = start + self.page
                self.kv[tokens[:end]] = list(slots[start:end])
        if state is None:
            return False
        node = self.nodes[tokens]
        had_it = node.slot is not None
        if not had_it:
            node.slot = state
        self.use(tokens)
        return had_it

    def evict(self, what: Evicted) -> int:
        """Take it out; the KV slots that this frees."""
        if not what.leaf:
            self.nodes[what.prefix].slot = None
            return 0
        freed = self.slots(what.prefix)
        del self.nodes[what.prefix]
        for end in range(len(what.prefix), len(what.prefix) - len(freed), -self.page):
            del self.kv[what.prefix[:end]]
        return len(freed)

    def slots(self, prefix: Tokens, *, whole: bool = False) -> list[int]:
        """The KV slots of a node, or of the whole path to it."""
        start = 0 if whole else len(self.parent(prefix))
        ends = range(start + self.page, len(prefix) + 1, self.page)
        return [slot for end in ends for slot in self.kv[prefix[:end]]]

    # ---- what may be evicted ----

    def holds_kv(self, prefix: Tokens) -> bool:
        return any(locked[: len(prefix)] == prefix for locked, _ in self.locks)

    def holds_state(self, prefix: Tokens) -> bool:
        return (prefix, True) in self.locks

    def saved_flops(self, prefix: Tokens) -> float:
        starts = (len(node) for node in self.above(prefix) if self.nodes[node].slot is not None)
        return self.cost.prefill_flops(next(starts, 0), len(prefix))

    def states(self) -> dict[Tokens, Row]:
        """The states that may go."""
        children = self.children()
        return {
            prefix: Row(
                self.state_rank(prefix, children[prefix]),
                node.last_use,
                self.saved_flops(prefix) / self.cost.state_bytes,
            )
            for prefix, node in self.nodes.items()
            if node.slot is not None and not self.holds_state(prefix)
        }

    def state_rank(self, prefix: Tokens, children: int) -> int:
        running_below = any(
            state and locked[: len(prefix)] == prefix != locked for locked, state in self.locks
        )
        return (3 if children > 1 else 1) + running_below

    def leaves(self) -> dict[Tokens, Row]:
        """The leaves whose KV may go."""
        children = self.children()
        rows = {}
        for prefix, node in self.nodes.items():
            if children[prefix] or self.holds_kv(prefix):
                continue
            if node.slot is None:
                rows[prefix] = Row(0, node.last_use, 0.0)
                continue
            kept = (
                len(above)
                for above in self.above(prefix)
                if self.nodes[above].slot is not None or children[above] > 1
            )
            held = self.cost.state_bytes + self.cost.kv_bytes(len(prefix) - next(kept, 0))
            rows[prefix] = Row(1, node.last_use, self.saved_flops(prefix) / held)
        return rows

    def valuation(self) -> Valuation:
        return PredictedReuse() if self.alpha is None else PaperUtility(self.alpha)

    def assert_least_useful(self, victim: Tokens, rows: dict[Tokens, Row]) -> None:
        assert victim in rows
        if self.alpha is None:
            # Where nothing can resume goes first.
            assert rows[victim].rank == 0 or all(row.rank for row in rows.values())
        else:
            self.assert_least_utility(victim, rows, self.alpha)

    def assert_least_utility(self, victim: Tokens, rows: dict[Tokens, Row], alpha: float) -> None:
        lowest = min(row.rank for row in rows.values())
        assert rows[victim].rank == lowest
        peers = [row for row in rows.values() if row.rank == lowest]
        recency, recency_span = _range(row.recency for row in peers)
        efficiency, efficiency_span = _range(row.efficiency for row in peers)

        def utility(row: Row) -> float:
            terms = (row.recency - recency) / recency_span if recency_span else 0.0
            if efficiency_span:
                terms += alpha * (row.efficiency - efficiency) / efficiency_span
            return terms

        # The policy adds both as they are, not from 0 on: it rounds at their own size.
        rounding = 2.0**-50 * (
            (recency / recency_span if recency_span else 0.0)
            + (alpha * efficiency / efficiency_span if efficiency_span else 0.0)
            + 1.0
        )
        least = min(map(utility, peers))
        assert utility(rows[victim]) <= least + _TIE + rounding
        # Of equally useful ones, the oldest.
        if alpha == 0 or rounding < _TIE / 10:
            equal = [row for row in peers if utility(row) <= least + _TIE / 10]
            assert rows[victim].recency <= min(row.recency for row in equal)


def _range(values: Iterable[float]) -> tuple[float, float]:
    """The least value, and how far above it the greatest is."""
    values = list(values)
    return min(values), max(values) - min(values)
