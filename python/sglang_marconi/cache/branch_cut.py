"""Cutting a prefill where it is to leave a state, inside SGLang's ``PrefillAdder``.

For models whose states cannot be taken inside a pass: there a state can be had only where a pass
ends. SGLang already knows how to stop a prefill early and go on with it in the next pass (chunked
prefill, one such request at a time); two hooks make it stop where a state is wanted as well:

- ``admission`` around ``PrefillAdder._select_prefill_admission``: the first chunk of a request.
- ``continuation`` around ``PrefillAdder.add_chunked_req``: the later ones.

A request that cannot be cut, because another is unfinished already, runs whole and leaves its
branch to the next request that takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang.srt.managers.schedule_policy import AddReqResult, _PrefillAdmission

from sglang_marconi.cache.radix_cache import MarconiRadixCache
from sglang_marconi.policy.admission import chunk_end

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.managers.schedule_policy import PrefillAdder

    from sglang_marconi.cache.pass_states import PassStates


class BranchCut:
    """The two hooks; ``passing`` says whether they have anything to do."""

    def __init__(self, passing: PassStates) -> None:
        self._passing = passing

    def _cuts(self, adder: PrefillAdder) -> bool:
        return not self._passing.inside and isinstance(adder.tree_cache, MarconiRadixCache)

    def admission(
        self,
        original: Callable[..., _PrefillAdmission | AddReqResult],
        adder: PrefillAdder,
        req: Req,
        *,
        has_chunked_req: bool = False,
        **kwargs: Any,
    ) -> _PrefillAdmission | AddReqResult:
        """Shorten the admission SGLang chose so that its chunk ends where a state is wanted."""
        admission = original(adder, req, has_chunked_req=has_chunked_req, **kwargs)
        if not self._cuts(adder) or isinstance(admission, AddReqResult):
            return admission
        if has_chunked_req or adder.new_chunked_req is not None:
            # The one place for an unfinished prefill is taken. Where that one was cut, it
            # left budget over, so SGLang may want to start a second one: it waits for a pass.
            return AddReqResult.OTHER if admission.is_chunked else admission
        start = admission.prefix_len
        end = start + admission.extend_len
        cut = chunk_end(start, end, self._passing.next_place(req, start))
        if cut == end:
            return admission
        return _PrefillAdmission(
            prefix_len=start,
            extend_len=cut - start,
            # Requests admitted after this one must leave room for the rest of it.
            max_new_tokens=end - cut + admission.max_new_tokens,
            is_chunked=True,
            replay_len=admission.replay_len,
        )

    def continuation(
        self, original: Callable[[PrefillAdder, Req], Req | None], adder: PrefillAdder, req: Req
    ) -> Req | None:
        """End a continued prefill where a state is wanted, where the chunk would run over it."""
        if not self._cuts(adder):
            return original(adder, req)
        start, end = req.prefix_len, len(req.full_untruncated_fill_ids)
        cut = chunk_end(start, end, self._passing.next_place(req, start))
        if cut < end:
            limit = adder.chunked_req_limit
            adder.chunked_req_limit = cut - start if limit is None else min(limit, cut - start)
        if adder.rem_chunk_tokens is not None:
            return original(adder, req)
        # Chunked prefill is off, so SGLang has no budget for a continuation: give it
        # just what the cut left over, and no budget again to the requests after it.
        adder.rem_chunk_tokens = end - start
        try:
            return original(adder, req)
        finally:
            adder.rem_chunk_tokens = None
