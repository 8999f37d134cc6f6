"""Which length the state in each tracking slot of a request stands for.

Under `extra_buffer` a pass copies the state of a prefill, or of a decode that reaches SGLang's
grid, into one of a request's tracking slots, and SGLang reckons from the results it reads which
slot holds what. With overlap scheduling a pass is launched before the last one's result is read,
and where decodes ride in a prefill's pass (`--enable-mixed-chunk`), which tracks none of them,
that reckoning goes wrong: a slot is named for a state that another pass has overwritten.

So lengths are noted here when a pass is launched, from what that very pass will write, and no
result is needed. Two hooks:

- ``before_decode``, before ``ScheduleBatch.prepare_for_decode``: the next state goes where the
  newest one is not, whatever the last passes were;
- ``launched``, before ``Scheduler.run_batch``: what each slot holds once that pass has run.

A state taken out of a slot is read after all passes launched so far, so the length noted last is
the one that it stands for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.weak import WeakTensorKeyDictionary

if TYPE_CHECKING:
    import torch
    from sglang.srt.managers.schedule_batch import Req, ScheduleBatch


class Tracked(NamedTuple):
    """The state after ``tokens`` tokens of a request, in entry ``position`` of its slots."""

    tokens: int
    position: int


class TrackedStates:
    """The lengths, noted pass by pass; one for each process.

    A request that gives its tracking slots back, as at a retraction, starts anew: lengths belong
    to the tensor that names the slots. One that keeps them over the turns of a session, and goes
    back behind a state, loses that.
    """

    def __init__(self) -> None:
        # One entry for each slot: None where it was never written, or nobody knows with what.
        self._tokens: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def newest(self, req: Req, most: int, page_size: int) -> Tracked | None:
        """The longest state of at most ``most`` tokens, on a boundary of KV pages, if any."""
        slots = req.kv.mamba_ping_pong_track_buffer
        usable = [
            Tracked(tokens, position)
            for position, tokens in enumerate(self._of(slots))
            if tokens is not None
            and tokens <= most
            and tokens % page_size == 0
            and not req.kv.mamba_ping_pong_empty[position]
        ]
        return max(usable, default=None)

    def before_decode(self, batch: ScheduleBatch) -> None:
        """Let the next state be written where the newest one is not."""
        for req in batch.reqs:
            slots = req.kv.mamba_ping_pong_track_buffer
            if slots is None or any(req.kv.mamba_ping_pong_empty):
                # Given back, or lazy: then SGLang takes a second slot when one is due.
                continue
            noted = self._of(slots)
            if len(noted) == 2 and noted != [None, None]:
                newest = max(range(2), key=lambda position: noted[position] or 0)
                req.kv.mamba_next_track_idx = 1 - newest

    def launched(self, _scheduler: Any, batch: ScheduleBatch, *_: Any, **__: Any) -> None:
        """Note what this pass writes."""
        if batch.mamba_prefill_track_mask_cpu is not None:
            # Decodes that ride in a prefill's pass come last, and are not tracked.
            prefills = len(batch.reqs) - len(batch.decoding_reqs or ())
            for row, req in enumerate(batch.reqs[:prefills]):
                self._forget_beyond(req, batch.prefix_lens[row])
                if batch.mamba_prefill_track_mask_cpu[row]:
                    self._note(req, req.kv.mamba_last_track_idx, req.kv.mamba_last_track_seqlen)
        elif batch.mamba_track_mask_cpu is not None:
            # Decodes may also go out as a prefill, for another rank's sake: whether that writes
            # depends on the model.
            decodes = batch.forward_mode.is_decode()
            for row, req in enumerate(batch.reqs):
                if batch.mamba_track_mask_cpu[row]:
                    tokens = int(batch.seq_lens_cpu[row]) if decodes else None
                    self._note(req, batch.mamba_track_buffer_indices[row], tokens)

    def _forget_beyond(self, req: Req, tokens: int) -> None:
        """States of more tokens than those that a request goes on from are not its own."""
        slots = req.kv.mamba_ping_pong_track_buffer
        if slots is not None:
            noted = self._of(slots)
            noted[:] = [None if kept is None or kept > tokens else kept for kept in noted]

    def _note(self, req: Req, position: int, tokens: int | None) -> None:
        slots = req.kv.mamba_ping_pong_track_buffer
        if slots is not None:
            self._of(slots)[position] = tokens

    def _of(self, slots: torch.Tensor) -> list[int | None]:
        if slots not in self._tokens:
            self._tokens[slots] = [None] * len(slots)
        noted: list[int | None] = self._tokens[slots]
        return noted
