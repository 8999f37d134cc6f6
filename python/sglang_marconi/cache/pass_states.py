"""States taken inside passes, from the launch of a pass until the tree has them.

| moment                     | what is done                                                        |
|----------------------------|---------------------------------------------------------------------|
| a pass is to be launched   | ``plan``: which states, by worth, and room for each                 |
| the pass runs              | ``run``: those inside are written by its operations, those at the   |
|                            | ends of its rows copied when it has been queued                     |
| its result is to be read   | ``read``: its states may land                                       |
| a request is checkpointed  | ``landing``: those that the tree has the KV of join it              |
| a request gives all back   | ``drop``: room for those that have not landed is given back         |

All is queued on the stream that passes run on, so what lands is written before anything reads it,
and what is given back before it is written is written before it is used anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

from sglang_marconi.events import Reason
from sglang_marconi.forward.layers import parts
from sglang_marconi.forward.plan import PassPlan, Place, Row, carried_out
from sglang_marconi.policy.waiting import Ids

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req, ScheduleBatch

    from sglang_marconi.forward.plan import Part

logger = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """A state that a request should leave: of its first ``tokens`` tokens.

    ``chance``: how likely it seems that it will be used, from 0 to 1.
    """

    tokens: int
    reason: Reason
    chance: float = 1.0


class _Prefix(NamedTuple):
    """What of the tree a state belongs to; ``ids``: of its tokens, int64."""

    extra_key: str | None
    cache_salt: str | None
    ids: bytes


class Room(NamedTuple):
    """Where a state goes.

    ``state``: what the tree gets, int64 ``[1]``. ``slot``: of the state pool, int64 ``[1]``, where
    the pass writes a state that is not at a row's end; the same where states share the slots.
    """

    state: torch.Tensor
    slot: torch.Tensor | None


class Keeper(Protocol):
    """What has room for states: a component of the tree."""

    def wanted(self, req: Req, *, cutting: bool = False) -> list[Wanted]:
        """The states that a request should leave, in order.

        ``cutting``: those for which its prefill is to be cut; what a pass leaves that runs anyway
        may be more.
        """

    def gain(self, above: int, tokens: int) -> float:
        """What a hit on a state after ``tokens`` tokens saves over one on the state above it."""

    def room(self, above: int, wanted: Wanted, inside: bool) -> Room | None:
        """Room for a state; ``None`` where there is none, or it is not worth what would have to
        go. ``inside``: it is taken inside a pass, rather than at the end of a row."""

    def lend(self, rooms: Iterable[Room]) -> None:
        """All states of a pass have room: slots that the tree does not get are free again.

        Whoever is given one next writes to it in a later pass.
        """

    def keep_taken(self, room: Room) -> None:
        """After the pass: what it wrote to the slot."""

    def keep_live(self, room: Room, live: torch.Tensor) -> None:
        """After the pass: what it left in a request's own slot, int64 ``[1]``."""

    def give_back(self, room: Room) -> None:
        """The tree does not get it, though it was kept."""

    def note_incomplete(self) -> None:
        """A pass has not written all of a state, which is given back."""


class _Candidate(NamedTuple):
    """A state that may be taken: what it gains over the one above it, and where it is in a pass."""

    gain: float
    place: Place
    above: int
    wanted: Wanted


class Taking:
    """A state on its way to the tree."""

    def __init__(
        self,
        req: Req,
        wanted: Wanted,
        prefix: _Prefix,
        room: Room,
        live: torch.Tensor | None,
    ) -> None:
        self.req = req
        self.wanted = wanted
        self.prefix = prefix
        self.room = room
        # The request's slot, for a state at the end of its row.
        self.live = live
        self.read = False
        # Tokens that it had given out before.
        self.replied = len(req.output_ids)


class Flight:
    """A pass and the states that it takes: inside, by its plan, and at the ends of its rows.

    ``missing``: what of those inside it has left unwritten.
    """

    def __init__(self, plan: PassPlan | None, inside: list[Taking], ends: list[Taking]) -> None:
        self.plan = plan
        self.inside = inside
        self.ends = ends
        self.missing: list[Part] = []


class PassStates:
    """The states of all passes under way; one for each process.

    Attributes:
        inside: whether states are taken inside passes. Once a pass has left some part of them
            unwritten, none of its operations is trusted again: prefills are cut from then on.
    """

    def __init__(self, request_pool: Any, *, inside: bool = True) -> None:
        self.inside = inside
        self._pool = request_pool
        self._keeper: Keeper | None = None
        self._of: dict[Req, list[Taking]] = {}
        self._next: Flight | None = None

    def kept_by(self, keeper: Keeper) -> None:
        """From now on ``keeper`` has room for states."""
        self._keeper = keeper

    # ---- a pass ----

    def plan(self, scheduler: Any, batch: ScheduleBatch, *_: Any, **__: Any) -> None:
        """Before ``Scheduler.run_batch``: choose the states of the pass, and find room for them.

        Those worth most come first, so that it is the least that lack of room loses. Of prompts
        that share a prefix one leaves its state for all.
        """
        self._next = None
        # What models without generation compute is not run by ``run``.
        runs = scheduler.is_generation and batch.forward_mode.is_extend()
        if self._keeper is None or not runs:
            return
        takings: dict[Place, Taking] = {}
        under_way = {taking.prefix for takings in self._of.values() for taking in takings}
        for each in sorted(self._candidates(batch), key=lambda each: (-each.gain, each.place)):
            req = batch.reqs[each.place.row]
            prefix = _prefix(req, each.wanted.tokens)
            if prefix in under_way:
                continue
            inside = each.place.tokens < batch.extend_lens[each.place.row]
            room = self._keeper.room(each.above, each.wanted, inside)
            if room is not None:
                live = None if inside else req.kv.mamba_pool_idx.view(1)
                takings[each.place] = Taking(req, each.wanted, prefix, room, live)
                under_way.add(prefix)
        if takings:
            self._next = _take_off(batch, takings)
            for taking in takings.values():
                self._of.setdefault(taking.req, []).append(taking)
            # Here, where slots are given out: the stream of passes is another one.
            self._keeper.lend(taking.room for taking in takings.values())

    def _candidates(self, batch: ScheduleBatch) -> Iterator[_Candidate]:
        """What requests should leave in this pass."""
        assert self._keeper is not None
        # Decodes that ride along come last.
        prefills = len(batch.reqs) - len(batch.decoding_reqs or ())
        # Data-parallel ranks have agreed on a graph, which one of them cannot do without.
        inside = self.inside and not batch.can_run_dp_prefill_cuda_graph
        for row, req in enumerate(batch.reqs[:prefills]):
            if req.skip_radix_cache_insert:
                continue
            start, length = batch.prefix_lens[row], batch.extend_lens[row]
            above = req.kv.cache_protected_len
            for wanted in self._keeper.wanted(req):
                tokens = wanted.tokens - start
                passed = 0 < tokens < length and inside
                if passed or tokens == length:
                    gain = wanted.chance * self._keeper.gain(above, wanted.tokens)
                    yield _Candidate(gain, Place(row, tokens), above, wanted)
                above = max(above, wanted.tokens)

    def run(self, original: Callable[..., Any], worker: Any, *args: Any, **kwargs: Any) -> Any:
        """Around ``TpModelWorker.forward_batch_generation``, on the stream that passes run on."""
        flight, self._next = self._next, None
        if flight is None:
            return original(worker, *args, **kwargs)
        with carried_out(flight.plan):
            result = original(worker, *args, **kwargs)
        assert self._keeper is not None
        for taking in flight.inside:
            self._keeper.keep_taken(taking.room)
        for taking in flight.ends:
            assert taking.live is not None
            self._keeper.keep_live(taking.room, taking.live)
        if flight.plan is not None:
            flight.missing = flight.plan.missing(parts(self._pool))
        # The very object is handed to what reads it.
        result.marconi_flight = flight
        return result

    def read(self, _scheduler: Any, _batch: Any, result: Any) -> None:
        """Before ``Scheduler.process_batch_result``: the states of the pass may land."""
        flight: Flight | None = getattr(result, "marconi_flight", None)
        if flight is None:
            return
        whole = flight.ends if flight.missing else [*flight.inside, *flight.ends]
        for taking in whole:
            taking.read = True
        if flight.missing:
            self._lose(flight)

    def _lose(self, flight: Flight) -> None:
        """What a pass has left incomplete is no state."""
        assert self._keeper is not None
        assert flight.plan is not None
        for _ in flight.inside:
            self._keeper.note_incomplete()
        self._forget(flight.inside)
        if flight.plan.declined or not self.inside:
            return
        self.inside = False
        part, layer = flight.missing[0]
        logger.warning(
            "Marconi: a pass left %d parts of its states unwritten (first: %s of layer %s). They "
            "are not kept, and prefills are cut at their branch points from now on.",
            len(flight.missing),
            part,
            layer,
        )

    def under_way(self) -> Iterator[tuple[Hashable, Ids]]:
        """The states of prompts that are still computed: in which namespace, after which tokens.

        Once the last pass over a prompt has been read, its states have landed, or never will.
        """
        for takings in self._of.values():
            for taking in takings:
                if not taking.read or len(taking.req.output_ids) == taking.replied:
                    extra_key, cache_salt, ids = taking.prefix
                    yield (extra_key, cache_salt), np.frombuffer(ids, np.int64)

    def next_place(self, req: Req, start: int) -> int | None:
        """Where a prefill from ``start`` on is cut, if states cannot be taken inside its passes."""
        if self._keeper is None or req.skip_radix_cache_insert:
            return None
        # What stands in for the state at the end, which is free, is not worth a pass of its own.
        wanted = self._keeper.wanted(req, cutting=True)
        places = (each.tokens for each in wanted if each.reason is not Reason.TRACKED)
        return next((tokens for tokens in places if tokens > start), None)

    def takes(self, req: Req, tokens: int) -> bool:
        """Whether a request's state after so many tokens is on its way."""
        return any(taking.wanted.tokens == tokens for taking in self._of.get(req, ()))

    # ---- the tree ----

    def ready(self, req: Req, most: int) -> int:
        """The most tokens, up to ``most``, of which a state of the request may land; 0 without."""
        found = (taking.wanted.tokens for taking in self._of.get(req, ()) if taking.read)
        return max((tokens for tokens in found if tokens <= most), default=0)

    def landing(self, req: Req, most: int) -> list[Taking]:
        """Those of a request, of at most ``most`` tokens, that may land, in order; it is up to the
        caller from now on what becomes of them."""
        under_way = self._of.get(req, [])
        landed = [each for each in under_way if each.read and each.wanted.tokens <= most]
        self._remove(landed)
        return sorted(landed, key=lambda each: each.wanted.tokens)

    def drop(self, req: Req) -> None:
        """The request leaves no more states."""
        self._forget(self._of.get(req, []))

    def _forget(self, takings: Iterable[Taking]) -> None:
        """Give their room back, unless that was done before."""
        held = [taking for taking in takings if taking in self._of.get(taking.req, ())]
        self._remove(held)
        assert self._keeper is not None
        for taking in held:
            self._keeper.give_back(taking.room)

    def _remove(self, takings: Iterable[Taking]) -> None:
        for taking in list(takings):
            left = self._of[taking.req]
            left.remove(taking)
            if not left:
                del self._of[taking.req]


def _take_off(batch: ScheduleBatch, takings: dict[Place, Taking]) -> Flight:
    """The pass of a batch that takes these states."""
    inside = [place for place in sorted(takings) if takings[place].live is None]
    ends = [takings[place] for place in sorted(takings) if takings[place].live is not None]
    plan = None
    if inside:
        rows = [
            Row(length, start > 0)
            for length, start in zip(batch.extend_lens, batch.prefix_lens, strict=True)
        ]
        plan = PassPlan(rows, inside, [_slot_of(takings[place]) for place in inside])
    return Flight(plan, [takings[place] for place in inside], ends)


def _prefix(req: Req, tokens: int) -> _Prefix:
    ids = req.full_untruncated_fill_ids[:tokens]
    return _Prefix(req.extra_key, req.cache_salt or None, ids.tobytes())


def _slot_of(taking: Taking) -> torch.Tensor:
    slot = taking.room.slot
    assert slot is not None, "a state inside a pass has a slot to be written to"
    return slot
