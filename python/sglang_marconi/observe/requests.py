"""What a request reuses, seen as SGLang admits it to be computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sglang_marconi.cache.radix_cache import MarconiRadixCache
from sglang_marconi.events import Matched, Observer, Prompted

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.managers.schedule_policy import PrefillAdder, _PrefillAdmission


class Admissions:
    """Reports each request once: when its computation begins for the first time."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._shared: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        observer.on(Matched, self._matched)

    def _matched(self, event: Matched) -> None:
        self._shared[event.request] = event.shared

    def admitted(
        self,
        _result: None,
        adder: PrefillAdder,
        req: Req,
        admission: _PrefillAdmission,
        mamba_gap_reserve: int,
    ) -> None:
        """Hook after ``PrefillAdder._commit_prefill_admission``."""
        cache = adder.tree_cache
        # What was taken out of a batch for lack of memory begins a second time.
        if not isinstance(cache, MarconiRadixCache) or req.retracted_stain:
            return
        hit = admission.prefix_len
        tree = cache.tree_core
        self._observer.emit(
            Prompted(
                tokens=len(req.origin_input_ids),
                shared=max(self._shared.pop(req, 0), hit),
                hit=hit,
                resumed=tree.prefix(tree.node_by_id(req.last_node)) if hit else None,
            )
        )
