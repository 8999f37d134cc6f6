"""When a recurrent state becomes a checkpoint, on SGLang's tree and pools.

SGLang calls a component at four moments of a request's life; this one answers:

| moment                     | SGLang's component        | this one                           |
|----------------------------|---------------------------|------------------------------------|
| match, before the prefill  | branch rounded to a grid  | branch at the token, or KV page    |
| a chunk ends               | a state, as at every end  | states taken so far, with their KV |
| the prompt ends            | a state, as at every end  | its KV; states taken on the way    |
| the request ends           | live state or tracked one | live state, else a tracked one     |

States on the way are taken inside the passes that come by (``pass_states``). Here states share the
slots of running requests; ``paged_component`` has them in a store of their own. Which state goes
when states are short is in ``ranked_states``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from sglang.srt.managers.schedule_batch import FINISH_MATCHED_STR
from sglang.srt.mem_cache.base_prefix_cache import EvictParams
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.unified_cache.components import ComponentType

from sglang_marconi.cache.declared import note_kept
from sglang_marconi.cache.pass_states import Room, Wanted
from sglang_marconi.cache.places import PLACES, Places
from sglang_marconi.cache.ranked_states import RankedStates
from sglang_marconi.events import (
    Decision,
    Matched,
    Observer,
    Reason,
    Refusal,
    Refused,
    Stored,
    timed,
)
from sglang_marconi.policy.admission import PrefixMatch, last_token
from sglang_marconi.policy.eviction import EvictionPolicy

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.mem_cache.base_prefix_cache import (
        InsertParams,
        InsertResult,
        MatchPrefixParams,
        MatchResult,
    )
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.unified_cache.cache_action import CacheAction, ComponentAction
    from sglang.srt.mem_cache.unified_cache.unified_tree_core import UnifiedTreeNode
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    from sglang_marconi.cache.alpha_tuning import AlphaTuning
    from sglang_marconi.cache.pass_states import PassStates
    from sglang_marconi.cache.tracked_states import TrackedStates
    from sglang_marconi.cache.waiting import WaitingRequests

logger = logging.getLogger(__name__)

_NO_SLOT = (
    "No recurrent-state slot is free or evictable: branch points go without a checkpoint until one "
    "is. Raise --max-mamba-cache-size or lower --max-running-requests."
)


class MarconiMambaComponent(RankedStates):
    """Checkpoints at branch points and at the last decoded token, nowhere else.

    ``tracked`` knows what the slots hold that SGLang tracks states in, ``passing`` has the states
    of passes under way, ``waiting`` what the queue is about to reuse; ``tuning`` hears of each
    finished request.
    """

    def __init__(
        self,
        cache: UnifiedRadixCache,
        params: CacheInitParams,
        *,
        policy: EvictionPolicy,
        tracked: TrackedStates,
        passing: PassStates,
        waiting: WaitingRequests,
        seen_only: bool = False,
        tuning: AlphaTuning | None = None,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(cache, params, policy=policy, observer=observer)
        self._tracked = tracked
        self._passing = passing
        passing.kept_by(self)
        self._waiting = waiting
        waiting.kept_by(self, params.page_size)
        self._tuning = tuning
        self._page_size: int = params.page_size
        self._places = Places(policy, waiting, passing, params.page_size, seen_only=seen_only)
        # Why the state offered next is kept, and how likely it seems that it will be used.
        self._reason, self._chance = Reason.END, 1.0
        self._warned_no_room = False

    # ---- match ----

    def finalize_match_result_in_tree_core(
        self,
        result: MatchResult,
        params: MatchPrefixParams,
        value_chunks: list[torch.Tensor],
        best_value_len: int,
    ) -> MatchResult:
        node = self._node(result.last_visited_node_id)
        match = PrefixMatch(
            shared_tokens=result.full_kv_hit_length,
            resumable_tokens=result.device_prefix_len + result.host_hit_length,
            branches=node is not None and _goes_on(node),
        )
        if self.observer is not None and params.req is not None:
            self.observer.emit(Matched(params.req, match.shared_tokens))
        left = None if node is None else self.tree_core.prefix(node).trail
        branch = self._places.matched(params.req, match, node, left)
        return result._replace(mamba_branching_seqlen=branch)

    def _node(self, node_id: int | None) -> UnifiedTreeNode | None:
        return None if node_id is None else self.tree_core.node_by_id(node_id)

    def admitted(self, req: Req) -> None:
        """A request was added to a batch: it is about to be computed from where it resumes."""
        self.used(req.last_node)
        self._places.admitted(req)

    # ---- insert ----

    def commit_insert_component_data(
        self,
        node: UnifiedTreeNode,
        is_new_leaf: bool,
        params: InsertParams,
        result: InsertResult,
        cache_actions: list[CacheAction | ComponentAction],
    ) -> None:
        # A prompt's KV enters the tree without a state, so that prompts arriving
        # while it decodes find where they branch off.
        if params.mamba_value is not None:
            super().commit_insert_component_data(node, is_new_leaf, params, result, cache_actions)
            if result.mamba_exist:
                self.policy.use(self.tree_core.prefix(node))
                return
            prefix = self.tree_core.prefix(node)
            self.policy.keep_for(prefix, PLACES[self._reason], self._chance)
            self._waiting.stored(params.key, prefix)
            if self.observer is not None:
                self.observer.emit(Stored(prefix, self._reason))

    # ---- checkpoint: what goes into the tree ----

    def prepare_for_caching_req(
        self,
        req: Req,
        insert_params: InsertParams,
        token_ids_len: int,
        is_finished: bool,
    ) -> int | None:
        """Choose the state (``insert_params.mamba_value``) and the prefix to insert.

        Returns the prefix length in tokens; 0 inserts nothing.
        """
        self._places.adding(req)
        if is_finished:
            if _gave_no_number(req):
                # Nor may its states and its KV be numbers, for all who would reuse them.
                return 0
            if self._tuning is not None:
                self._tuning.finished(len(req.origin_input_ids), req.full_untruncated_fill_ids)
            return self._prepare_finished(req, insert_params, token_ids_len)
        prompt_computed = token_ids_len == len(req.full_untruncated_fill_ids)
        return token_ids_len if prompt_computed else self._passing.ready(req, token_ids_len)

    def _prepare_finished(
        self, req: Req, insert_params: InsertParams, token_ids_len: int
    ) -> int | None:
        # Under the overlap scheduler the device is one token ahead of the result
        # just read; SGLang counts that token as committed, so the two agree.
        at = last_token(token_ids_len, req.kv.kv_committed_len, self._page_size)
        if at is not None and not self._replay_pends(req):
            self._reason, self._chance = Reason.END, self._places.ended(req, at)
            insert_params.mamba_value = self._state_at_end(req)
            return at
        if not self.cache.enable_mamba_extra_buffer:
            return token_ids_len
        tracked = super().prepare_for_caching_req(
            req, insert_params, token_ids_len, is_finished=True
        )
        if not tracked or insert_params.mamba_value is None:
            self._withdraw(insert_params)
            insert_params.mamba_value = insert_params.mamba_keep_idx = None
            return token_ids_len
        self._reason, self._chance = Reason.TRACKED, self._places.ended(req, int(tracked))
        if tracked >= req.kv.cache_protected_len:
            return int(tracked)
        if not self._insert_inside(req, insert_params, tracked):
            self._withdraw(insert_params)
        insert_params.mamba_value = None
        return token_ids_len

    def _select_finished_checkpoint(self, req: Req, token_ids_len: int) -> tuple[int, int] | None:
        """A tracked state to keep, as its length and the entry of its slot."""
        return self._tracked.newest(req, token_ids_len, self._page_size)

    def _replay_pends(self, req: Req) -> bool:
        """ReplaySSM: whether the slot's ring has decoded tokens that its recurrent state lacks.

        The windows beside it have them, so that the slot stands for no prefix.
        """
        pending = self.cache.req_to_token_pool.mamba_pool.replayssm_write_pos
        return pending is not None and bool(pending[req.kv.mamba_pool_idx])

    def _insert_inside(self, req: Req, insert_params: InsertParams, at: int) -> bool:
        """Put a state on the request's path, where its KV is in the tree already.

        An insert of its own, which adds and frees no KV. Whether the tree has taken the state.
        """
        kv_row = self.cache.req_to_token_pool.req_to_token[req.kv.req_pool_idx, :at]
        result = self.cache.insert(
            replace(
                insert_params,
                key=RadixKey(
                    req.full_untruncated_fill_ids[:at], req.extra_key, cache_salt=req.cache_salt
                ),
                value=kv_row.to(dtype=torch.int64, copy=True),
                prev_prefix_len=at,
                inserted_len=at,
            )
        )
        return not (result.mamba_exist or result.rotation_tail_declined)

    def _state_at_end(self, req: Req) -> torch.Tensor | None:
        """What the tree gets for a finished request's state."""
        return _live_slot(req)

    def _withdraw(self, insert_params: InsertParams) -> None:
        """The tree does not get the state, if any, that ``insert_params`` was to offer it."""
        insert_params.mamba_keep_idx = None

    def cleanup_after_caching_req(
        self,
        req: Req,
        is_finished: bool,
        insert_result: InsertResult | None = None,
        insert_params: InsertParams | None = None,
    ) -> None:
        """Settle who owns the slots once the tree has taken the state, or not."""
        if insert_params is not None:
            self._land(req, insert_params)
        if not is_finished:
            return
        self._passing.drop(req)
        stored = taken(insert_params, insert_result)
        if insert_params is not None and insert_params.mamba_keep_idx is not None:
            super().cleanup_after_caching_req(req, True, insert_result, insert_params)
        elif not stored:
            self.cache.req_to_token_pool.free_mamba_cache(req)
        elif self.cache.enable_mamba_extra_buffer:
            self._release_tracking_slots(req)

    def _land(self, req: Req, insert_params: InsertParams) -> None:
        """States that were taken inside passes join the tree, where it has their KV."""
        for taking in self._passing.landing(req, req.kv.cache_protected_len):
            at, self._reason, self._chance = taking.wanted
            params = replace(insert_params, mamba_value=taking.room.state, mamba_keep_idx=None)
            if self._insert_inside(req, params, at):
                note_kept(req, at, self._page_size)
            else:
                self.give_back(taking.room)

    def _release_tracking_slots(self, req: Req) -> None:
        """Free what a finished request holds beside the state the tree has taken.

        ``free_mamba_cache`` frees the live slot and all tracking slots but one; with
        one tracking slot named as the live one, just the tracking slots go.
        """
        keep = req.kv.mamba_ping_pong_empty.index(False)
        req.kv.mamba_pool_idx = req.kv.mamba_ping_pong_track_buffer[keep].clone()
        self.cache.req_to_token_pool.free_mamba_cache(
            req, mamba_ping_pong_track_buffer_to_keep=keep
        )

    # ---- states taken inside passes: `pass_states.Keeper` ----

    def leave(self, req: Req) -> None:
        """A request ends without a checkpoint."""
        self._passing.drop(req)

    def wanted(self, req: Req, *, cutting: bool = False) -> list[Wanted]:
        """See `Places.of`."""
        tracks = self.cache.enable_mamba_extra_buffer
        return self._places.of(req, None if tracks else self.mamba_checkpoint_grid, cutting)

    def gain(self, above: int, tokens: int) -> float:
        return self.policy.cost.prefill_flops(above, tokens)

    def room(self, above: int, wanted: Wanted, inside: bool) -> Room | None:
        allocator = self.cache.req_to_token_pool.mamba_allocator
        if not self._spares_a_slot():
            self._warn_no_room(_NO_SLOT)
            return None
        slot: torch.Tensor | None = allocator.alloc(1)
        if slot is None and not self._admits(above, wanted):
            return None
        if slot is None:
            self.cache.evict_for_alloc(EvictParams(num_tokens=0, mamba_num=1))
            slot = allocator.alloc(1)
        if slot is None:
            self._warn_no_room(_NO_SLOT)
            return None
        return Room(slot, slot)

    def _spares_a_slot(self) -> bool:
        """Whether requests that may still start have slots enough without one more.

        Each computes in one and locks the one that it resumed from, beside those for tracking.
        What is under way to the tree can be evicted by none of them.
        """
        pool = self.cache.req_to_token_pool
        left = pool.mamba_allocator.available_size() + self.cache.mamba_evictable_size()
        each = 2 + pool.mamba_initial_tracking_slots
        return bool(left > each * pool.available_size())

    def lend(self, rooms: Iterable[Room]) -> None:
        """Their slots are what the tree gets."""

    def keep_taken(self, room: Room) -> None:
        """Its slot is what the tree gets; it lags behind no tokens, as SGLang's copies do not."""
        pending = self.cache.req_to_token_pool.mamba_pool.replayssm_write_pos
        if pending is not None:
            pending.index_fill_(0, room.state, 0)

    def keep_live(self, room: Room, live: torch.Tensor) -> None:
        self.cache.req_to_token_pool.mamba_pool.copy_from(live, room.state)

    def give_back(self, room: Room) -> None:
        self._free_mamba_value(room.state)

    def note_incomplete(self) -> None:
        if self.observer is not None:
            self.observer.emit(Refused(Refusal.INCOMPLETE))

    def _admits(self, above: int, wanted: Wanted) -> bool:
        """Whether a state is worth what has to go for it."""
        place = PLACES[wanted.reason]
        decide, decision = self.policy.admits_inside, Decision.ADMISSION
        admits = timed(self.observer, decision, decide, above, wanted.tokens, place, wanted.chance)
        if not admits and self.observer is not None:
            self.observer.emit(Refused(Refusal.WORTH))
        return admits

    def _warn_no_room(self, message: str) -> None:
        """A state finds no room; the log has it once."""
        if self.observer is not None:
            self.observer.emit(Refused(Refusal.ROOM))
        if not self._warned_no_room:
            self._warned_no_room = True
            logger.warning(message)


def taken(insert_params: InsertParams | None, insert_result: InsertResult | None) -> bool:
    """Whether the tree has taken over the state that it was offered."""
    return (
        insert_params is not None
        and insert_params.mamba_value is not None
        and insert_result is not None
        and not insert_result.mamba_exist
    )


def _gave_no_number(req: Req) -> bool:
    """Whether a request ended because no token could be drawn from what the model computed."""
    reason = req.finished_reason
    return isinstance(reason, FINISH_MATCHED_STR) and reason.matched == "NaN happened"


def _live_slot(req: Req) -> torch.Tensor:
    slot: torch.Tensor = req.kv.mamba_pool_idx.unsqueeze(-1).clone()
    return slot


def _goes_on(node: UnifiedTreeNode) -> bool:
    """Whether something else than a prompt that ends at this node continues it, or will."""
    return bool(node.children) or node.component_data[ComponentType.FULL].lock_ref > 0
