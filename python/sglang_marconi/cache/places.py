"""Which states a request should leave, on SGLang's tree.

| moment                     | what is done                                                       |
|----------------------------|--------------------------------------------------------------------|
| a request is looked up     | ``matched``: its branch point, and where it leaves the tree        |
| it is added to a batch,    | ``admitted``: it is learned from, once, and places are predicted   |
| or cut                     |                                                                    |
| a pass is to be launched   | ``of``: the states that it should leave, in order                  |
| it is put into the tree    | ``adding``: what it adds is known to be its own                    |
| it ends                    | ``ended``: how likely it is resumed at its end                     |

What is decided is ``policy``'s: ``admission``, ``waiting``, ``declared``, ``prospects``.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary
from zlib import crc32

import numpy as np
from sglang.srt.runtime_context import get_serving

from sglang_marconi.cache.declared import points_of
from sglang_marconi.cache.pass_states import Wanted
from sglang_marconi.events import Reason
from sglang_marconi.policy.admission import PrefixMatch, branch_point
from sglang_marconi.policy.choice import Place, Prospect
from sglang_marconi.policy.prospects import Ids, Prospects, Trail

if TYPE_CHECKING:
    from array import array

    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.mem_cache.unified_cache.unified_tree_core import UnifiedTreeNode

    from sglang_marconi.cache.pass_states import PassStates
    from sglang_marconi.cache.waiting import WaitingRequests
    from sglang_marconi.policy.eviction import EvictionPolicy
    from sglang_marconi.policy.ledger import PrefixNode
    from sglang_marconi.policy.ranking import Valuation

PLACES = {
    Reason.BRANCH: Place.BRANCH,
    Reason.WAITING: Place.WAITING,
    Reason.DECLARED: Place.DECLARED,
    Reason.PROMPT: Place.PROMPT,
    Reason.BOUNDARY: Place.BOUNDARY,
    Reason.END: Place.END,
    Reason.TRACKED: Place.END,
}
"""What a state is kept for, to the policy."""
_MOST_CHILDREN = 64
_GUESSES = {Place.PROMPT: Reason.PROMPT, Place.BOUNDARY: Reason.BOUNDARY}


class _Met(NamedTuple):
    """How a request met the tree: it leaves it at ``node``, which ``left`` has added."""

    match: PrefixMatch
    node: UnifiedTreeNode | None
    left: Trail | None


class _Planned(NamedTuple):
    """What a request adds to the tree, and the states that are predicted to be used in it."""

    trail: Trail
    guesses: list[Prospect]


class Places:
    """The places of requests that are computed; one for each cache.

    Args:
        policy: the cache's eviction policy.
        waiting: what follows the queue.
        passing: has the states of passes under way.
        page_size: of KV in tokens.
        seen_only: the paper's admission, where prompts have parted and where requests end.
    """

    def __init__(
        self,
        policy: EvictionPolicy,
        waiting: WaitingRequests,
        passing: PassStates,
        page_size: int,
        *,
        seen_only: bool = False,
    ) -> None:
        self._policy = policy
        self._waiting = waiting
        self._passing = passing
        self._page_size = page_size
        self._seen_only = seen_only
        self._prospects = Prospects(page_size)
        # The tree and the valuation that all was learned with.
        self._learned_with: tuple[PrefixNode, Valuation] = policy.root, policy.valuation
        self._met: WeakKeyDictionary[Req, _Met] = WeakKeyDictionary()
        self._planned: WeakKeyDictionary[Req, _Planned] = WeakKeyDictionary()

    # ---- before it is computed ----

    def matched(
        self, req: Req | None, match: PrefixMatch, node: UnifiedTreeNode | None, left: Trail | None
    ) -> int | None:
        """A prompt was looked up, and leaves the tree at ``node``; where it branches off, if a
        state is due there. The last time before it is admitted counts."""
        if req is not None and self._predicts:
            self._met[req] = _Met(match, node, left)
        return branch_point(match, self._page_size, self._policy.cost)

    def admitted(self, req: Req) -> None:
        """A request is about to be computed: what it meets is learned from, once.

        One that was retracted meets what it has left.
        """
        met = self._met.pop(req, None)
        if met is None or req in self._planned or not self._predicts:
            return
        if req.skip_radix_cache_insert or req.output_ids:
            return
        self._begin_anew()
        tokens = _tokens(req.full_untruncated_fill_ids, len(req.origin_input_ids))
        shared = met.match.shared_tokens
        if self._page_size > 1 and met.node is not None:
            page = req.full_untruncated_fill_ids[shared : shared + self._page_size]
            shared += _shared_further(page, met.node)
        certain = (wanted.tokens for wanted in self._certain(req, cutting=True))
        above = max([met.match.resumable_tokens, *certain])
        self._planned[req] = _Planned(
            *self._prospects.arrived(
                tokens, shared, above, met.left, _namespace(req), self._tokens_of_pass(len(tokens))
            )
        )

    @property
    def _predicts(self) -> bool:
        return not self._seen_only and self._policy.valuation.weighs_guesses

    def _begin_anew(self) -> None:
        """A flush, or another policy, makes a cache that has learned nothing, as of rates."""
        now = self._policy.root, self._policy.valuation
        if now != self._learned_with:
            self._learned_with, self._prospects = now, Prospects(self._page_size)

    def _tokens_of_pass(self, prompt: int) -> float:
        """What a pass takes, if states take one, in tokens of a prompt that has so many."""
        if self._passing.inside:
            return 0.0
        cost = self._policy.cost
        return prompt * cost.pass_flops / cost.prefill_flops(0, prompt)

    # ---- while it is computed ----

    def of(self, req: Req, grid: int | None, cutting: bool) -> list[Wanted]:
        """The states that a request should leave, in order; ``cutting`` as in `Keeper.wanted`.

        ``grid``: where a reply leaves no state, one is left near the prompt's end, on this grid.
        """
        found: dict[int, Wanted] = {}
        if cutting:
            # Where its prefill is to be cut is asked for before it is admitted.
            self.admitted(req)
        planned = self._planned.get(req)
        if planned is not None and self._predicts:
            for tokens, place, chance in planned.guesses:
                found[tokens] = Wanted(tokens, _GUESSES[place], chance)
        if grid and get_serving().strip_thinking_cache and req.session is None and not found:
            at = len(req.origin_input_ids) // grid * grid
            found[at] = Wanted(at, Reason.TRACKED)
        found |= {wanted.tokens: wanted for wanted in self._certain(req, cutting)}
        return [found[tokens] for tokens in sorted(found)]

    def _certain(self, req: Req, cutting: bool) -> list[Wanted]:
        """Those that do not depend on a prediction."""
        waiting = self._waiting.places(req, cutting=cutting)
        found = [Wanted(at, Reason.WAITING) for at in waiting]
        if req.mamba_branching_seqlen is not None:
            found.append(Wanted(req.mamba_branching_seqlen, Reason.BRANCH))
        if not self._seen_only:
            points = points_of(req, self._page_size, self._policy.cost)
            found.extend(Wanted(at, Reason.DECLARED) for at in points)
        return found

    # ---- once it is in the tree ----

    def adding(self, req: Req) -> None:
        """What is added to the tree from now on is the request's."""
        planned = self._planned.get(req)
        self._policy.trail = None if planned is None else planned.trail

    def ended(self, req: Req, at: int) -> float:
        """How likely its end after ``at`` tokens is resumed at, in parts of what is usual."""
        planned = self._planned.get(req)
        if planned is None or not self._predicts:
            return 1.0
        self._begin_anew()
        return self._prospects.ended(planned.trail, _tokens(req.full_untruncated_fill_ids, at), at)


def _namespace(req: Req) -> int:
    """The same on all ranks, as Python's own hashes are not."""
    names = (req.extra_key, req.cache_salt or None)
    return crc32(repr(names).encode()) if any(names) else 0


def _tokens(ids: array[int], count: int) -> Ids:
    """A view, for as long as a call takes: while there is one, the array cannot grow."""
    return np.frombuffer(ids, np.int64, count)


def _shared_further(page: array[int], node: UnifiedTreeNode) -> int:
    """How many tokens of its next KV page a prompt shares with what the tree goes on with, as far
    as a look at some of it tells."""
    children = islice(node.children.values(), _MOST_CHILDREN)
    return max((_common(page, child.key.token_ids) for child in children), default=0)


def _common(one: array[int], other: array[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (ours, theirs) in pairs if ours != theirs), min(len(one), len(other)))
