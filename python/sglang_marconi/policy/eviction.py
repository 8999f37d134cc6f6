"""What a cache gives up when it is short of room: a state, or a leaf's KV.

| short of | candidates                                                      | frees        |
|----------|-----------------------------------------------------------------|--------------|
| states   | every state that no request runs from                           | the state    |
| KV       | leaves whose KV is not in use; without a state, they go first   | KV and state |

Where a checkpoint has several forms (``forms``), giving up a state is several steps: it is
demoted first, which frees part of its room and gives up little of its worth, then it may move to
the host, and only then does it go. Each step competes with all others by what it gives up for the
bytes it frees. States on the host compete with each other for its memory.

Where states and KV share one budget, leaves and the states of other nodes are candidates at once.
A leaf that lost its state keeps its KV until KV is short: it still shows where later prompts
branch off. Which candidate goes first, a `Valuation` says: the paper's utility (``utility``)
or the prediction of reuse (``prediction``).

The owner of the cached tree reports each change to it and asks for victims. The policy
notes which nodes a change concerns and looks at them again when the next victim is asked
for, so that it never walks the tree. It knows neither tokens nor memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.choice import Place
from sglang_marconi.policy.forms import Form, check_forms, forms_of
from sglang_marconi.policy.ledger import PrefixLedger, PrefixNode
from sglang_marconi.policy.ranking import Candidate, Ranking, Standing, Valuation


class PricedLedger(PrefixLedger):
    """What each node holds and saves; subclasses say what competes with what.

    Args:
        cost: FLOPs and bytes of a prefix.
        valuation: which candidate goes first.
        forms: the ways to hold a checkpoint, the first one first; exact alone by default.

    Raises:
        ValueError: a form takes no less room than the one before it.
    """

    def __init__(
        self, cost: ModelCost, valuation: Valuation, forms: Sequence[Form] | None = None
    ) -> None:
        self.valuation = valuation
        self.forms = check_forms(forms or forms_of(cost.state_bytes))
        self.cost = cost
        self._uses_host = self.forms[-1].host_bytes > 0
        self.clear()

    def clear(self) -> None:
        super().clear()
        self.valuation.clear()
        self._rank_anew()

    def revalue(self, valuation: Valuation) -> None:
        """Have another valuation say which candidate goes first, from now on."""
        self.valuation = valuation
        valuation.clear()
        self._rank_anew()
        self._notice_all()

    def _rank_anew(self) -> None:
        """Rankings without candidates; subclasses have more of them."""
        self._on_host = self.valuation.ranking()

    def demotion(self, node: PrefixNode) -> int | None:
        """The number of the form that ``node``'s state takes next; ``None``: it has to go."""
        following = node.form + 1
        return following if following < len(self.forms) else None

    def least_useful_on_host(self) -> PrefixNode | None:
        """The node whose state on the host goes first; ``None`` without any that may."""
        self._settle()
        return self._on_host.least_useful()

    def standing_on_host(self, node: PrefixNode) -> Standing | None:
        """How ``node`` is judged as one of those on the host; to be shown, changes nothing."""
        return self._on_host.standing(node)

    def tick(self) -> None:
        # A valuation learns from all that happens, not only once memory is short.
        self._settle()
        super().tick()

    def use(self, node: PrefixNode) -> None:
        if node.has_state:
            self.valuation.used(node, self._now)
        super().use(node)

    def drop_state(self, node: PrefixNode) -> None:
        self.valuation.gone(node, self._now)
        super().drop_state(node)

    def remove(self, node: PrefixNode) -> None:
        if node.has_state:
            self.valuation.gone(node, self._now)
        super().remove(node)

    def roles(self, node: PrefixNode) -> dict[str, tuple[Ranking, Candidate | None]]:
        """By what lacks room: a ranking, and ``node`` as a candidate in it, worked out anew."""
        on_host = self._host_copy(node, self._saved_flops(node))
        return {"states on the host": (self._on_host, on_host)}

    def _place(self, node: PrefixNode) -> None:
        if node.has_state:
            self.valuation.seen(node, self._now)
        saved = self._saved_flops(node)
        if self._uses_host:
            _put(self._on_host, node, self._host_copy(node, saved))
        self._offer(node, saved)

    def _forget(self, node: PrefixNode) -> None:
        self._on_host.discard(node)

    @abstractmethod
    def _offer(self, node: PrefixNode, saved: float) -> None:
        """Make ``node``, a hit on which saves ``saved`` FLOPs, the candidate that it is."""

    def _admits(
        self, ranking: Ranking, above: int, depth: int, size: int, place: Place, chance: float
    ) -> bool:
        """Whether a checkpoint of so many bytes is worth what goes first in ``ranking``."""
        self._settle()
        saved = self.cost.prefill_flops(above, depth)
        return ranking.admits(saved / (size or 1), place, chance)

    def _state(self, node: PrefixNode, saved: float) -> Candidate | None:
        """``node`` as a candidate for its state, worth ``saved`` FLOPs, to be demoted or to go."""
        form = self.forms[node.form]
        if not node.has_state or node.state_in_use or form.host_bytes:
            return None
        freed, lost = form.device_bytes, 1.0 - form.lost
        following = self.demotion(node)
        if following is not None:
            after = self.forms[following]
            freed, lost = freed - after.device_bytes, after.lost - form.lost
        # Without recurrent layers a state takes no room; the paper's grid has such a model.
        efficiency = saved * lost / (freed or 1)
        return Candidate(efficiency, True, _state_referenced(node), following is not None)

    def _host_copy(self, node: PrefixNode, saved: float) -> Candidate | None:
        """``node`` as a candidate to lose the state that it has on the host."""
        form = self.forms[node.form]
        if not node.has_state or node.state_in_use or not form.host_bytes:
            return None
        efficiency = saved * (1.0 - form.lost) / form.host_bytes
        return Candidate(efficiency, True, _state_referenced(node))

    def _leaf(self, node: PrefixNode, saved: float) -> Candidate | None:
        """``node`` as a candidate to lose its KV, and with it the state worth ``saved`` FLOPs."""
        if not node.leaf_offered:
            return None
        if not node.has_state:
            return Candidate(0.0, False, node.kv_referenced)
        kept = 1.0 - self.forms[node.form].lost
        referenced = node.kv_referenced or node.awaited > 0
        return Candidate(saved * kept / self._leaf_bytes(node), True, referenced)

    def _saved_flops(self, node: PrefixNode) -> float:
        """FLOPs that a hit on ``node`` saves beyond one on the nearest state above it."""
        if not node.has_state:
            return 0.0
        above = node.parent
        while above is not None and not above.has_state:
            above = above.parent
        return self.cost.prefill_flops(above.depth if above is not None else 0, node.depth)

    def _leaf_bytes(self, node: PrefixNode) -> int:
        """Bytes on the device for the sake of a leaf with a state: the state and its KV.

        Its KV goes back to the nearest node that is kept for its own sake, by a state or
        by another child: what lies between is of no use without the leaf, and goes next.
        """
        above = node.parent
        while above is not None and not above.has_state and len(above.children) == 1:
            above = above.parent
        start = above.depth if above is not None else 0
        return self.forms[node.form].device_bytes + self.cost.kv_bytes(node.depth - start)


class EvictionPolicy(PricedLedger):
    """For a cache with a pool for states and a pool for KV."""

    def _rank_anew(self) -> None:
        super()._rank_anew()
        self._states = self.valuation.ranking()
        self._leaves = self.valuation.ranking()

    def least_useful_state(self) -> PrefixNode | None:
        """The node whose state is demoted or goes first; ``None`` if every state is in use."""
        self._settle()
        return self._states.least_useful()

    def least_useful_leaf(self) -> PrefixNode | None:
        """The node whose KV, and with it its state, goes first; ``None`` without a leaf."""
        self._settle()
        return self._leaves.least_useful()

    def standing_of_state(self, node: PrefixNode) -> Standing | None:
        """How ``node``'s state is judged where states are short; to be shown, changes nothing."""
        return self._states.standing(node)

    def standing_of_leaf(self, node: PrefixNode) -> Standing | None:
        """How ``node`` is judged where KV is short; to be shown, changes nothing."""
        return self._leaves.standing(node)

    def roles(self, node: PrefixNode) -> dict[str, tuple[Ranking, Candidate | None]]:
        saved = self._saved_flops(node)
        state, leaf = self._state(node, saved), self._leaf(node, saved)
        return super().roles(node) | {"states": (self._states, state), "KV": (self._leaves, leaf)}

    def admits_inside(
        self, above: int, depth: int, place: Place = Place.BRANCH, chance: float = 1.0
    ) -> bool:
        """Whether a place inside a prompt, at ``depth``, is worth the state that has to go for it.

        ``above``: the depth of the nearest state above it, 0 without one. ``place`` and
        ``chance``: what it is kept for, and how likely it is used.
        """
        size = self.forms[0].device_bytes
        return self._admits(self._states, above, depth, size, place, chance)

    def _offer(self, node: PrefixNode, saved: float) -> None:
        _put(self._states, node, self._state(node, saved))
        _put(self._leaves, node, self._leaf(node, saved))

    def _forget(self, node: PrefixNode) -> None:
        super()._forget(node)
        self._states.discard(node)
        self._leaves.discard(node)


class SharedBudgetEviction(PricedLedger):
    """For a cache with one budget for states and KV."""

    def _rank_anew(self) -> None:
        super()._rank_anew()
        self._nodes = self.valuation.ranking()

    def least_useful(self) -> PrefixNode | None:
        """The node that goes first: a leaf with its KV and state, another one's state; or whose
        state is demoted, where ``demotion`` says so."""
        self._settle()
        return self._nodes.least_useful()

    def roles(self, node: PrefixNode) -> dict[str, tuple[Ranking, Candidate | None]]:
        candidate = self._candidate(node, self._saved_flops(node))
        return super().roles(node) | {"states and KV": (self._nodes, candidate)}

    def admits_inside(
        self, above: int, depth: int, place: Place = Place.BRANCH, chance: float = 1.0
    ) -> bool:
        """Whether a place inside a prompt, at ``depth``, is worth what has to go for its state.

        As in `EvictionPolicy.admits_inside`.
        """
        size = self.forms[0].device_bytes
        return self._admits(self._nodes, above, depth, size, place, chance)

    def admits_end(self, above: int, depth: int, kv_bytes: int, chance: float = 1.0) -> bool:
        """Whether an end at ``depth`` is worth what has to go for its state and its KV.

        ``chance``: how likely it is resumed at, in parts of what is usual.
        """
        size = self.forms[0].device_bytes + kv_bytes
        return self._admits(self._nodes, above, depth, size, Place.END, chance)

    def _offer(self, node: PrefixNode, saved: float) -> None:
        _put(self._nodes, node, self._candidate(node, saved))

    def _candidate(self, node: PrefixNode, saved: float) -> Candidate | None:
        if self.demotion(node) is not None:
            state = self._state(node, saved)
            if state is not None:
                return state
        return self._leaf(node, saved) or self._inner(node, saved)

    def _inner(self, node: PrefixNode, saved: float) -> Candidate | None:
        """``node`` as a candidate where it is not a leaf."""
        return self._state(node, saved) if node.children else None

    def _forget(self, node: PrefixNode) -> None:
        super()._forget(node)
        self._nodes.discard(node)


class LeafEviction(SharedBudgetEviction):
    """One budget where nothing but leaves is evicted, as the paper's "SGLang+" does."""

    def _inner(self, node: PrefixNode, saved: float) -> Candidate | None:
        return None


def _state_referenced(node: PrefixNode) -> bool:
    return node.state_referenced or node.awaited > 0


def _put(ranking: Ranking, node: PrefixNode, candidate: Candidate | None) -> None:
    if candidate is None:
        ranking.discard(node)
    else:
        ranking.place(node, candidate)
