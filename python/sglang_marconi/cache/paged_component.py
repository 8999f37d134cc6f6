"""Checkpoints in a store of their own, on SGLang's tree.

| moment                     | with shared slots         | with the store                        |
|----------------------------|---------------------------|---------------------------------------|
| a pass takes a state       | in a slot, which joins    | in a free slot, which is copied into  |
|                            | the tree                  | the store once the pass is queued     |
| the request ends           | the slot joins the tree   | the state is copied, the slot is free |
| room is short              | a state is evicted        | one is demoted, moved or evicted      |
| a hit                      | the slot is copied        | the store fills a slot                |

The tree counts a state in store pages (*pages* below): that is what the store has of it on the
device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from sglang.srt.mem_cache.base_prefix_cache import EvictParams

from sglang_marconi.cache.checkpoint_pool import CheckpointPool
from sglang_marconi.cache.mamba_component import MarconiMambaComponent, taken
from sglang_marconi.cache.pass_states import Room, Wanted
from sglang_marconi.events import Reformed

_NO_SLOT = (
    "No recurrent-state slot is free for a state inside a prefill: such states are lost until one "
    "is. Lower --max-running-requests, or checkpoint_memory."
)

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.mem_cache.base_prefix_cache import (
        InsertParams,
        InsertResult,
        MatchPrefixParams,
        MatchResult,
    )
    from sglang.srt.mem_cache.unified_cache.unified_tree_core import UnifiedTreeNode

    from sglang_marconi.cache.ranked_eviction import EvictionStep
    from sglang_marconi.policy.ledger import PrefixNode


class PagedMambaComponent(MarconiMambaComponent):
    """``MarconiMambaComponent`` for a request pool with a ``CheckpointPool``."""

    @property
    def _pool(self) -> CheckpointPool:
        pool: CheckpointPool = self.cache.req_to_token_pool.mamba_ckpt_pool
        return pool

    # ---- size, in pages ----

    def reclaimable_value_len(self, node: UnifiedTreeNode) -> int:
        checkpoint = node.component_data[self.component_type].value
        return 0 if checkpoint is None else self._pool.store.device_pages(int(checkpoint))

    # ---- what is held, to be checked ----

    def form_of(self, state: torch.Tensor) -> int:
        return self._pool.store.form(int(state))

    def held_by_form(self) -> list[int]:
        store = self._pool.store
        return [store.count(form) for form in range(len(store.forms))]

    # ---- use ----

    def finalize_match_result_in_cache(
        self, params: MatchPrefixParams, result: MatchResult
    ) -> MatchResult:
        if params.cow_mamba:
            node = self.tree_core.node_by_id(result.best_match_node)
            if node is not self.tree_core.root_node:
                self._return_from_host(node)
        return super().finalize_match_result_in_cache(params, result)

    def _return_from_host(self, node: UnifiedTreeNode) -> None:
        """What is about to be used comes back to the device, where pages for it are free."""
        if node.component_data[self.component_type].value is None:
            return
        prefix = self.tree_core.prefix(node)
        if self.policy.forms[prefix.form].host_bytes:
            self._set_form(prefix, node, prefix.form - 1)

    # ---- checkpoint ----

    def room(self, above: int, wanted: Wanted, inside: bool) -> Room | None:
        """A checkpoint, and a free slot for the pass to write to."""
        if self._is_short() and not self._admits(above, wanted):
            return None
        slot = None
        if inside:
            slot = self.cache.req_to_token_pool.mamba_allocator.alloc(1)
            if slot is None:
                self._warn_no_room(_NO_SLOT)
                return None
        checkpoint = self._alloc_checkpoint()
        if checkpoint is None:
            if slot is not None:
                self.cache.req_to_token_pool.mamba_allocator.free(slot)
            return None
        return Room(checkpoint, slot)

    def lend(self, rooms: Iterable[Room]) -> None:
        for room in rooms:
            if room.slot is not None:
                self.cache.req_to_token_pool.mamba_allocator.free(room.slot)

    def keep_taken(self, room: Room) -> None:
        assert room.slot is not None
        self.keep_live(room, room.slot)

    def keep_live(self, room: Room, live: torch.Tensor) -> None:
        states = self.cache.req_to_token_pool.mamba_pool
        self._pool.store_from_active(states, live, room.state)

    def _state_at_end(self, req: Req) -> torch.Tensor | None:
        return self._commit_int8_checkpoint(req.kv.mamba_pool_idx)

    def _commit_int8_checkpoint(self, active_slots: torch.Tensor) -> torch.Tensor | None:
        """A new checkpoint of the state in a slot; SGLang's name for it, who calls it as well."""
        checkpoint = self._alloc_checkpoint()
        if checkpoint is not None:
            states = self.cache.req_to_token_pool.mamba_pool
            self._pool.store_from_active(states, active_slots.view(-1), checkpoint)
        return checkpoint

    def _alloc_checkpoint(self) -> torch.Tensor | None:
        pool = self._pool
        if self._is_short():
            pages = pool.store.pages_of_new - pool.store.available_pages
            self.cache.evict(EvictParams(num_tokens=0, mamba_num=pages))
        checkpoint = pool.alloc()
        if checkpoint is None:
            self._warn_no_room(
                "No page of the checkpoint store is free or can be freed: requests go without a "
                "checkpoint until one is. Raise checkpoint_memory."
            )
        return checkpoint

    def _is_short(self) -> bool:
        store = self._pool.store
        return store.available_pages < store.pages_of_new

    def _withdraw(self, insert_params: InsertParams) -> None:
        if insert_params.mamba_value is not None:
            self._free_mamba_value(insert_params.mamba_value)

    def cleanup_after_caching_req(
        self,
        req: Req,
        is_finished: bool,
        insert_result: InsertResult | None = None,
        insert_params: InsertParams | None = None,
    ) -> None:
        if insert_params is not None:
            self._land(req, insert_params)
        if not is_finished:
            return
        self._passing.drop(req)
        offered = None if insert_params is None else insert_params.mamba_value
        if offered is not None and not taken(insert_params, insert_result):
            self._free_mamba_value(offered)
        self.cache.req_to_token_pool.free_mamba_cache(req)

    # ---- room ----

    def _give_way(self, victim: PrefixNode, step: EvictionStep) -> None:
        """Demote, move or evict the victim's state, or make it room on the host first."""
        following = self.policy.demotion(victim)
        if following is not None and self.policy.forms[following].host_bytes:
            displaced = self._displaced_on_host()
            if displaced is not None:
                self._evict(displaced, self.policy.standing_on_host, step)
                return
        node = self.tree_core.node_by_id(victim.handle)
        freed = None if following is None else self._set_form(victim, node, following)
        if freed is None:
            super()._give_way(victim, step)
        else:
            step.tracker[self.component_type] += freed

    def _displaced_on_host(self) -> PrefixNode | None:
        """The state that has to leave the host before another one comes, if any has to and may."""
        store = self._pool.store
        room = store.available_host_pages * store.layout.page_bytes
        if room >= store.forms[-1].host_bytes:
            return None
        return self.policy.least_useful_on_host()

    def _set_form(self, prefix: PrefixNode, node: UnifiedTreeNode, form: int) -> int | None:
        """Change a checkpoint's form; pages freed by it, ``None`` where there is no room."""
        checkpoint = node.component_data[self.component_type].value
        freed = self._pool.store.set_form(int(checkpoint), form)
        if freed is not None:
            self.tree_core.adjust_component_size(node.id, self.component_type, -freed)
            before = prefix.form
            self.policy.set_form(prefix, form)
            if self.observer is not None:
                self.observer.emit(Reformed(prefix, before))
        return freed
