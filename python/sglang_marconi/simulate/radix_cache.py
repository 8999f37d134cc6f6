"""What the tree caches have in common: states at branch points and ends, in a radix tree."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from sglang_marconi.cost import ModelCost
from sglang_marconi.policy.admission import PrefixMatch, branch_point
from sglang_marconi.policy.choice import Place, Prospect
from sglang_marconi.policy.eviction import PricedLedger
from sglang_marconi.policy.ledger import PrefixNode
from sglang_marconi.policy.prospects import Prospects, Trail
from sglang_marconi.simulate.arrivals import Admitted, rounds
from sglang_marconi.simulate.cache import SimulatedCache
from sglang_marconi.simulate.tree import RadixTree, TreeNode, Walk
from sglang_marconi.traces.requests import TraceRequest
from sglang_marconi.traces.tokens import Tokens


class Match(NamedTuple):
    """How a prompt meets the tree: it resumes after ``hit`` tokens, at ``resumed``.

    ``inside``: where the prompt leaves states on its way, in order. ``trail``: what it adds to the
    tree, if that is learned from.
    """

    hit: int
    resumed: TreeNode | None
    inside: list[Prospect]
    trail: Trail | None


class RadixCache(SimulatedCache):
    """A tree and the policy's view of it, for the caches that serve requests on it.

    A prompt resumes at the deepest state on its path, at the latest before its last token,
    which has to be computed. The state of a finished request stands before the last token
    it sampled, which the model has not read.
    """

    waits = False
    """Whether requests that arrive together wait for what one of them can leave for others."""
    predicts = False
    """Whether states are kept for predictions, too."""

    def __init__(self, cost: ModelCost, policy: PricedLedger) -> None:
        self.cost = cost
        self.policy = policy
        self._tree = RadixTree()
        self._nodes: dict[int, TreeNode] = {}
        self._numbered = 0
        # The deepest node on the path of the request being served, and those whose state it uses.
        self._held = self._tree.root
        # In order, so that a run repeats.
        self._locked: tuple[TreeNode, ...] = ()
        # What the requests of the same pass resume from; in order, too.
        self._in_pass: dict[TreeNode, None] = {}
        self._tree.root.prefix = policy.root
        self._prospects = Prospects()

    def serve(self, request: TraceRequest) -> int:
        return self._serve_pass([Admitted(request)])[0]

    def serve_together(self, requests: Sequence[TraceRequest]) -> list[int]:
        if not self.waits or len(requests) == 1:
            return self._serve_pass([Admitted(request) for request in requests])
        hits = [0] * len(requests)
        for numbered in rounds(requests, self.cost, self._resumes):
            found = self._serve_pass([admitted for _, admitted in numbered])
            for (number, _), hit in zip(numbered, found, strict=True):
                hits[number] = hit
        return hits

    def _serve_pass(self, admitted: Sequence[Admitted]) -> list[int]:
        """Serve requests that see nothing of each other."""
        matches = [self._match(each) for each in admitted]
        if len(matches) > 1:
            self._hold_in_pass(matches)
        for each, match in zip(admitted, matches, strict=True):
            self.policy.trail = match.trail
            self._finish(each.request, match)
            self._release()
            self._note_peak()
        self._release_pass()
        return [match.hit for match in matches]

    @abstractmethod
    def _finish(self, request: TraceRequest, match: Match) -> None:
        """Make room for what a request leaves, and keep what fits of it."""

    def _resumes(self, request: TraceRequest) -> int:
        """After how many tokens a request could resume now."""
        walk = self._tree.walk(request.prompt, len(request.prompt) - 1)
        return next((node.depth for node in reversed(walk.path) if node.prefix.has_state), 0)

    def _match(self, admitted: Admitted) -> Match:
        prompt = admitted.request.prompt
        walk = self._tree.walk(prompt, len(prompt) - 1)
        resumed = next((node for node in reversed(walk.path) if node.prefix.has_state), None)
        hit = resumed.depth if resumed is not None else 0
        left = self._entered(walk).prefix.trail
        end = self._end_of(walk)
        shared = PrefixMatch(walk.shared, hit, branches=bool(end.children))
        at = branch_point(shared, 1, self.cost)
        inside = {depth: Prospect(depth, Place.WAITING, 1.0) for depth in admitted.places}
        if at is not None:
            inside[at] = Prospect(at, Place.BRANCH, 1.0)
        trail = None
        if self.predicts and prompt.is_plain:
            above = max([hit, *inside])
            trail, guesses = self._prospects.arrived(prompt.ids, walk.shared, above, left)
            inside = {guess.tokens: guess for guess in guesses} | inside
        if resumed is not None:
            self.policy.use(resumed.prefix)
        return Match(hit, resumed, [inside[depth] for depth in sorted(inside)], trail)

    def _chance_of_end(self, trail: Trail | None, sequence: Tokens, end: int) -> float:
        """How likely the end of a request is resumed at, in parts of what is usual."""
        if trail is None or not sequence.is_plain:
            return 1.0
        return self._prospects.ended(trail, sequence.ids, end)

    def _end_of(self, walk: Walk) -> TreeNode:
        """The node that ends where a walk does, split off if need be."""
        if walk.partial is not None:
            return self._split(walk.partial, walk.shared)
        return self._entered(walk)

    def _entered(self, walk: Walk) -> TreeNode:
        """The last node that a walk enters."""
        return walk.partial or (walk.path[-1] if walk.path else self._tree.root)

    def _insert(self, sequence: Tokens, depth: int) -> TreeNode:
        """The node of the first ``depth`` tokens of a sequence, new or not."""
        self.policy.tick()
        end = self._end_of(self._tree.walk(sequence, depth))
        return self._add(end, sequence, depth) if end.depth < depth else end

    # ---- what a request holds ----

    def _hold(self, held: TreeNode, *users: TreeNode) -> None:
        """Keep the KV down to ``held``, and the states there and at ``users``."""
        self._release()
        self._held = held
        if not held.children and held.parent is not None:
            self.policy.withdraw_leaf(held.prefix)
        self._locked = tuple(dict.fromkeys((held, *users)))
        for node in self._locked:
            self.policy.lock_state(node.prefix)

    def _release(self) -> None:
        held, self._held = self._held, self._tree.root
        self._offer_if_leaf(held)
        for node in self._locked:
            if node not in self._in_pass:
                self.policy.unlock_state(node.prefix)
        self._locked = ()

    def _hold_in_pass(self, matches: Sequence[Match]) -> None:
        """Keep what the requests of a pass resume from until all of them have ended."""
        nodes = (match.resumed for match in matches)
        self._in_pass = dict.fromkeys(node for node in nodes if node is not None)
        for node in self._in_pass:
            if not node.children:
                self.policy.withdraw_leaf(node.prefix)
            self.policy.lock_state(node.prefix)

    def _release_pass(self) -> None:
        nodes, self._in_pass = self._in_pass, {}
        for node in nodes:
            self.policy.unlock_state(node.prefix)
            self._offer_if_leaf(node)

    # ---- room ----

    def _give_way(self, prefix: PrefixNode) -> None:
        """One step to less room for a state: demote it, or evict it."""
        self.state_bytes_held -= self._state_bytes(prefix)
        demoted = self.policy.demotion(prefix)
        if demoted is None:
            self.policy.drop_state(prefix)
            self.evictions += 1
        else:
            self.policy.set_form(prefix, demoted)
            self.state_bytes_held += self._state_bytes(prefix)
            self.demotions += 1

    def _evict_leaf(self, prefix: PrefixNode) -> None:
        leaf = self._nodes.pop(prefix.handle)
        parent = leaf.parent
        assert parent is not None
        if prefix.has_state:
            self.state_bytes_held -= self._state_bytes(prefix)
        self.kv_bytes_held -= self._edge_bytes(parent.depth, leaf.depth)
        self.evictions += 1
        self._tree.remove(leaf)
        self.policy.remove(prefix)
        self._offer_if_leaf(parent)

    def _leave_inside(self, node: TreeNode, prospect: Prospect) -> None:
        """A state inside a prompt, unless another request of the pass has left it."""
        if not node.prefix.has_state:
            self._store_state(node, prospect.place, prospect.chance)

    def _store_state(self, node: TreeNode, place: Place, chance: float) -> None:
        if node.prefix.has_state:
            self.policy.use(node.prefix)
            return
        self.policy.store_state(node.prefix)
        self.policy.keep_for(node.prefix, place, chance)
        self.state_bytes_held += self._state_bytes(node.prefix)

    def _state_bytes(self, prefix: PrefixNode) -> int:
        return self.policy.forms[prefix.form].device_bytes

    @property
    def _new_state_bytes(self) -> int:
        return self.policy.forms[0].device_bytes

    # ---- the tree, and the policy's view of it ----

    def _split(self, node: TreeNode, depth: int) -> TreeNode:
        upper = self._tree.split(node, depth)
        upper.prefix = self.policy.split(node.prefix, self._number(upper), depth)
        return upper

    def _add(self, parent: TreeNode, sequence: Tokens, depth: int) -> TreeNode:
        if not parent.children and parent.parent is not None:
            self.policy.withdraw_leaf(parent.prefix)
        leaf = self._tree.add(parent, sequence, depth)
        leaf.prefix = self.policy.add(parent.prefix, self._number(leaf), depth)
        self.policy.offer_leaf(leaf.prefix)
        self.kv_bytes_held += self._edge_bytes(parent.depth, depth)
        return leaf

    def _number(self, node: TreeNode) -> int:
        self._numbered += 1
        self._nodes[self._numbered] = node
        return self._numbered

    def _offer_if_leaf(self, node: TreeNode) -> None:
        held = node is self._held or node in self._in_pass
        if not node.children and node.parent is not None and not held:
            self.policy.offer_leaf(node.prefix)

    def _edge_bytes(self, start: int, end: int) -> int:
        return self.cost.kv_bytes(end) - self.cost.kv_bytes(start)
