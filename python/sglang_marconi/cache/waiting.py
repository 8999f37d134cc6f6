"""Requests that wait for a pass that leaves a state for them, inside SGLang's scheduler.

| moment                         | what is done                                                    |
|--------------------------------|-----------------------------------------------------------------|
| a round of admissions begins   | ``begin``: follow the queue; which states are under way         |
| a request's turn has come      | ``look``: it is passed over if it waits for a state             |
| it is added to the batch       | ``admit``: what it will leave is waited for from now on         |
| a pass is to be launched       | ``places``: the states that it should leave                     |
| a state joins the tree         | ``stored``: whoever can resume there is about to use it         |

Who waits for what is ``policy.waiting``'s. A request is passed over only while the state is under
way: its pass was launched with room for it, or is about to be, or goes on in chunks. If a request
that is waited for is aborted, the next one takes its place. If its pass found no room for the
state, those that were passed over for it are not passed over again: it might be so with all. The
queue keeps its order.

What a request that waits would resume from is evicted last. It is looked up in the tree once, when
that first matters or when it has waited for a round, and followed from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
from sglang.srt.managers.schedule_policy import AddReqResult
from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams
from sglang.srt.mem_cache.radix_cache import RadixKey

from sglang_marconi.policy.waiting import Ids, WaitingPrompts

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.managers.schedule_policy import PrefillAdder

    from sglang_marconi.cache.pass_states import PassStates
    from sglang_marconi.cache.ranked_states import RankedStates
    from sglang_marconi.policy.ledger import PrefixNode


class WaitingRequests:
    """The requests of the scheduler's queue; one for each process.

    ``passing`` has the states of passes under way. Without ``holds`` nobody waits: requests are
    admitted as SGLang does it.
    """

    def __init__(self, passing: PassStates, *, holds: bool = True) -> None:
        self._passing = passing
        self._holds = holds
        self._scheduler: Any = None

    def kept_by(self, states: RankedStates, page_size: int) -> None:
        """From now on ``states`` is what has the states in the tree."""
        self._states = states
        self._policy = states.policy
        self._prompts: WaitingPrompts[Req] = WaitingPrompts(
            self._policy.cost, page_size, self._resumes
        )
        self._root = self._policy.root
        # The queue as it was last followed: most rounds change nothing in it.
        self._queue: list[Req] = []
        # Where each would resume: the policy's root where nothing of it is in the tree.
        self._resumed: dict[Req, PrefixNode] = {}
        # Those not looked up yet, and how many awaited states had gone when the others were.
        self._new: list[Req] = []
        self._gone = self._policy.awaited_gone
        # Those passed over in this round, and how far each could have resumed.
        self._held: dict[Req, int] = {}
        self._let_down: set[Req] = set()
        # Those added to the batch of this round, and what they and a chunked one are to leave.
        self._added: list[Req] = []
        self._promised: dict[Req, list[int]] = {}

    # ---- a round of admissions ----

    def begin(self, scheduler: Any, *_: Any, **__: Any) -> None:
        """Before ``Scheduler._get_new_batch_prefill_raw``."""
        if not (self._holds and scheduler.is_generation):
            return
        self._scheduler = scheduler
        self._notice_flush()
        self._protect()
        found_no_room = self._found_no_room()
        self._added.clear()
        self._promised.clear()
        self._follow_queue()
        if found_no_room:
            for req, could in self._held.items():
                waits = req not in self._prompts or self._prompts.waits(req)
                if not waits and self._resumes(req) <= could:
                    self._let_down.add(req)
        self._held.clear()

    def _found_no_room(self) -> bool:
        """Whether a pass was launched without a state that was waited for."""
        return any(
            at <= req.extend_end and not self._passing.takes(req, at)
            for req, places in self._promised.items()
            if not (req.finished() or req.to_finish or req in self._prompts)
            for at in places
        )

    def _protect(self) -> None:
        """What those that have waited for a round are about to use is to stay."""
        if self._gone != self._policy.awaited_gone:
            self._gone = self._policy.awaited_gone
            self._new = list(self._prompts)
        for req in self._new:
            if req in self._prompts:
                self._resumes(req)
        self._new.clear()

    def _follow_queue(self) -> None:
        """Those that have come wait, those that have gone do no more; what is under way."""
        if self._scheduler.waiting_queue != self._queue:
            self._take_up(self._scheduler.waiting_queue)
        self._prompts.expect_nothing()
        if not len(self._prompts):
            return
        for namespace, ids in self._passing.under_way():
            self._prompts.expect(namespace, ids)
        chunked = self._scheduler.chunked_req
        for req in self._added if chunked is None else [chunked, *self._added]:
            self._promise(req)

    def _take_up(self, queue: list[Req]) -> None:
        there = set(queue)
        for req in [req for req in self._prompts if req not in there]:
            self._leave(req)
        for req in queue:
            # Those just added to the batch are in SGLang's queue until the round ends.
            if req not in self._prompts and req not in self._added and _may_wait(req):
                tokens = np.array(req.origin_input_ids + req.output_ids, np.int64)
                most = req._compute_max_prefix_len(len(tokens))
                self._prompts.add(req, _namespace(req), tokens, most)
                self._new.append(req)
        self._queue = list(queue)

    def look(
        self,
        original: Callable[..., None],
        req: Req,
        tree_cache: Any = None,
        cow_mamba: bool | None = None,
    ) -> None:
        """Around ``Req.init_next_round_input``, which finds what it resumes from."""
        if tree_cache is not None and self._waits(req):
            self._held[req] = self._resumes(req)
        else:
            original(req, tree_cache, cow_mamba)

    def _waits(self, req: Req) -> bool:
        if self._scheduler is None or not _may_wait(req):
            return False
        if req not in self._prompts:
            # It came while the round went on, as those do whose grammar is ready.
            self._follow_queue()
        return req in self._prompts and req not in self._let_down and self._prompts.waits(req)

    def admit(
        self,
        original: Callable[..., AddReqResult],
        adder: PrefillAdder,
        req: Req,
        *args: Any,
        **kwargs: Any,
    ) -> AddReqResult:
        """Around ``PrefillAdder.add_one_req``."""
        if req in self._held:
            return AddReqResult.CONTINUE
        result = original(adder, req, *args, **kwargs)
        if adder.can_run_list and adder.can_run_list[-1] is req:
            self._states.admitted(req)
            if self._scheduler is None:
                # Nobody waits on this server.
                return result
            self._leave(req)
            self._added.append(req)
            self._promise(req)
        return result

    def preempt(self, original: Callable[..., bool], adder: PrefillAdder, req: Req) -> bool:
        """Around ``PrefillAdder.preempt_to_schedule``: nobody goes for a request that waits."""
        return not self._waits(req) and original(adder, req)

    def _promise(self, req: Req) -> None:
        """What a request about to be prefilled will leave may be waited for."""
        tokens = _tokens(req)
        self._promised[req] = self.places(req, cutting=True)
        for at in self._promised[req]:
            self._prompts.expect(_namespace(req), tokens[:at])

    def _leave(self, req: Req) -> None:
        """A request waits no longer, if it did."""
        if req in self._prompts:
            self._prompts.remove(req)
            self._resume_at(req, None)
            self._let_down.discard(req)
            # It may come back to the very queue that it was in.
            self._queue = []

    # ---- states ----

    def places(self, req: Req, *, cutting: bool) -> list[int]:
        """Where the rest of a request's prefill should leave states for those that wait.

        ``cutting``: those that are worth a pass of their own, where states take one.
        """
        if not len(self._prompts) or req.skip_radix_cache_insert or _is_streaming(req):
            return []
        passes = float(cutting and not self._passing.inside)
        return self._prompts.places(_namespace(req), _tokens(req), req.prefix_len, req, passes)

    def stored(self, key: RadixKey, node: PrefixNode) -> None:
        """A state joins the tree at ``node``, on the path of ``key``."""
        if not len(self._prompts):
            return
        self._notice_flush()
        tokens = np.array(key.raw_token_ids(), np.int64)[: node.depth]
        for req in self._prompts.sharing((key.extra_key, key.cache_salt), tokens):
            before = self._resumed.get(req)
            if before is not None and before.depth < node.depth:
                self._resume_at(req, node)

    def _resumes(self, req: Req) -> int:
        """After how many tokens a request could resume now."""
        self._notice_flush()
        node = self._resumed.get(req)
        if node is None:
            node = self._look_up(req)
            self._resume_at(req, node)
        elif not node.has_state and node.parent is not None:
            while node.parent is not None and not node.has_state:
                node = node.parent
            self._resume_at(req, node)
        return node.depth

    def _notice_flush(self) -> None:
        """If the tree is another one, nothing of the last one is to be used any more."""
        if self._root is not self._policy.root:
            self._root = self._policy.root
            self._resumed.clear()
            self._new = list(self._prompts)

    def _look_up(self, req: Req) -> PrefixNode:
        tokens = req.origin_input_ids + req.output_ids
        most = req._compute_max_prefix_len(len(tokens))
        key = RadixKey(tokens, req.extra_key, limit=most, cache_salt=req.cache_salt)
        tree = self._states.tree_core
        found = self._states.cache.match_prefix(MatchPrefixParams(key=key))
        return tree.prefix(tree.node_by_id(found.best_match_node))

    def _resume_at(self, req: Req, node: PrefixNode | None) -> None:
        before = self._resumed.pop(req, None)
        if before is not None and before.parent is not None:
            self._policy.await_state(before, -1)
        if node is not None:
            self._resumed[req] = node
            if node.parent is not None:
                self._policy.await_state(node, 1)


def _may_wait(req: Req) -> bool:
    """Whether a request resumes from the tree, as far as its tokens are there."""
    overridden = req.positional_embed_overrides is not None
    return not overridden and not _is_streaming(req) and req.to_finish is None


def _is_streaming(req: Req) -> bool:
    """Whether it goes on with what its session has kept for it."""
    return req.session is not None and bool(req.session.streaming)


def _namespace(req: Req) -> Hashable:
    return req.extra_key, req.cache_salt or None


def _tokens(req: Req) -> Ids:
    return np.array(req.full_untruncated_fill_ids, np.int64)
