"""A question from the HTTP server to the scheduler, over SGLang's own sockets.

SGLang's control requests go to all ranks of a replica between two of their batches, and the first
rank's answer goes back; ours are two more of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.managers import tokenizer_control_mixin
from sglang.srt.managers.io_struct import BaseReq, hook_custom_types

if TYPE_CHECKING:
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

_NAME = "marconi_state"


class MarconiStateReq(BaseReq):
    """What does your cache hold?"""


class MarconiStateReqOutput(BaseReq):
    """``state``: a ``State`` in JSON; empty where this scheduler has none to show."""

    state: bytes


def teach_types() -> None:
    """Let this process decode the two."""
    hook_custom_types(MarconiStateReq, MarconiStateReqOutput)


def teach_tokenizer() -> None:
    """Have the tokenizer managers that this process is about to build ask.

    Callers at the same time share one question.
    """
    tokenizer_control_mixin._COMMUNICATOR_SPECS.append((_NAME, MarconiStateReqOutput, "watching"))


async def ask(tokenizer_manager: TokenizerManager) -> list[bytes]:
    """The states of all replicas."""
    tokenizer_manager.auto_create_handle_loop()
    communicator = getattr(tokenizer_manager, f"{_NAME}_communicator")
    return [answer.state for answer in await communicator(MarconiStateReq())]


def answer(_result: None, scheduler: Scheduler) -> None:
    """Hook after ``Scheduler.init_request_dispatcher``: this scheduler answers."""
    from sglang.utils import TypeBasedDispatcher

    def state(_request: Any) -> MarconiStateReqOutput:
        snapshot = getattr(scheduler.tree_cache, "snapshot", None)
        return MarconiStateReqOutput(state=b"" if snapshot is None else snapshot())

    scheduler._request_dispatcher += TypeBasedDispatcher([(MarconiStateReq, state)])
