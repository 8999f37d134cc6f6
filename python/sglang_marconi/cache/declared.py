"""Places that an application declares, at a request in the scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang_marconi.declare.transport import MOST_POSITIONS, WRITTEN, carried
from sglang_marconi.policy.declared import declared_points

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer

    from sglang_marconi.cost import ModelCost


def places_of(req: Req) -> list[int]:
    """Positions that the request declares, in tokens; those inside its prompt.

    They were checked where the request came in, but not if that was another entrance than SGLang's
    own; and a prompt may be shorter here if it was truncated.
    """
    positions = carried(req.sampling_params.custom_params)
    if not isinstance(positions, list):
        return []
    whole = (each for each in positions[:MOST_POSITIONS] if type(each) is int)
    return [each for each in whole if 0 < each < len(req.origin_input_ids)]


def points_of(req: Req, page_size: int, cost: ModelCost) -> list[int]:
    """Where the request should leave states."""
    places = places_of(req)
    return declared_points(places, req.kv.cache_protected_len, page_size, cost) if places else []


def note_kept(req: Req, tokens: int, page_size: int) -> None:
    """The tree has taken the request's state after so many tokens."""
    if any(place // page_size * page_size == tokens for place in places_of(req)):
        req.marconi_kept = max(tokens, _kept(req))


def report(
    details: dict[str, Any] | None, streamer: SchedulerOutputStreamer, req: Req
) -> dict[str, Any] | None:
    """After ``SchedulerOutputStreamer.get_cached_tokens_details``: what was written, too."""
    if carried(req.sampling_params.custom_params) is None:
        return details
    written = max(0, _kept(req) - req.cached_tokens)
    return {**(details or {"device": 0, "host": 0}), WRITTEN: written}


def _kept(req: Req) -> int:
    kept: int = getattr(req, "marconi_kept", 0)
    return kept
