"""Hooks on requests as they come in: what they declare becomes token positions.

| API                    | declared by              | hook                                       |
|------------------------|--------------------------|--------------------------------------------|
| `/generate`            | `checkpoints`            | `generate`                                 |
| `/v1/chat/completions` | `cache_control`          | `convert`                                  |
| `/v1/messages`         | the same                 | the same: SGLang makes a chat request of it |
| all, and an Engine's   | `custom_params`          | `check`, which all requests go through      |
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from sglang_marconi.declare.breakpoints import Body, BreakpointError, breakpoints
from sglang_marconi.declare.position import Rendered, position
from sglang_marconi.declare.transport import PARAMETER, carried, checked, with_positions
from sglang_marconi.seams import table

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest
    from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
    from sglang.srt.managers.io_struct import EmbeddingReqInput, GenerateReqInput
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

Converted = tuple["GenerateReqInput", "ChatCompletionRequest"]


async def generate(
    original: Callable[..., Awaitable[Any]], obj: GenerateReqInput, request: Request
) -> Any:
    """Around ``serve_generate_request``: ``checkpoints``, of one prompt or of each of a batch."""
    declared = (await request.json()).get("checkpoints")
    if declared is not None:
        try:
            _declare(obj, declared)
        except ValueError as error:
            return sys.modules[table.HTTP]._create_error_response(error)
    return await original(obj, request)


def _declare(obj: GenerateReqInput, declared: object) -> None:
    prompts = obj.text if obj.text is not None else obj.input_ids
    if not prompts or isinstance(prompts, str) or isinstance(prompts[0], int):
        obj.sampling_params = with_positions(obj.sampling_params, declared)
        return
    count = len(prompts)
    if not isinstance(declared, list) or len(declared) != count:
        raise ValueError(
            f"checkpoints: one list of positions is needed for each of {count} prompts"
        )
    given = obj.sampling_params
    each = given if isinstance(given, list) else [given] * count
    if len(each) == count:  # If not, SGLang says so.
        obj.sampling_params = [
            sampling if positions is None else with_positions(sampling, positions)
            for sampling, positions in zip(each, declared, strict=True)
        ]


def check(
    manager: TokenizerManager,
    obj: GenerateReqInput | EmbeddingReqInput,
    input_text: str,
    input_ids: list[int] | None,
    *_: Any,
    **__: Any,
) -> None:
    """Before ``TokenizerManager._create_tokenized_object``: positions that the prompt has.

    Raises:
        ValueError: it has not; SGLang makes an answer of it in each API's own form.
    """
    sampling = obj.sampling_params
    custom = sampling.get("custom_params") if isinstance(sampling, dict) else None
    positions = carried(custom)
    if positions is None:
        return
    if getattr(obj, "session_params", None):
        raise ValueError("checkpoints: a session's prompt has no positions of its own")
    assert isinstance(custom, dict)
    custom[PARAMETER] = checked(positions, len(input_ids or ()))


def convert(
    original: Callable[..., Converted],
    serving: OpenAIServingChat,
    request: ChatCompletionRequest,
    raw_request: Request | None = None,
) -> Converted:
    """Around ``OpenAIServingChat._convert_to_internal_request``: positions of breakpoints.

    Raises:
        BreakpointError: one cannot be served.
    """
    converted = original(serving, request, raw_request)
    body = None if raw_request is None else _json_of(raw_request)
    if raw_request is None or not isinstance(body, dict):
        return converted
    places = breakpoints(body)
    if request.tool_choice not in ("auto", "required"):
        # A template is shown no tools then, or the one that is named: there is nothing to keep.
        places = [place for place in places if place.section != "tools"]
    if not places:
        return converted
    obj = converted[0]
    if obj.input_ids is None:
        raise BreakpointError(f"{places[0]}: breakpoints need a prompt without images or sounds")

    def render(other: Body) -> list[int]:
        made = _chat_request(type(request), other, raw_request)
        ids: list[int] = original(serving, made, raw_request)[0].input_ids
        return list(ids)

    rendered = Rendered(body, list(obj.input_ids), render, serving.tokenizer_manager.tokenizer)
    positions = [position(rendered, place) for place in places]
    obj.sampling_params = with_positions(obj.sampling_params, positions)
    return converted


def _json_of(request: Request) -> Any:
    """The body of a request, that was read before; reading it again waits for nothing."""
    reading = request.json()
    try:
        reading.send(None)
    except StopIteration as done:
        return done.value
    reading.close()
    return None


def _chat_request(
    kind: type[ChatCompletionRequest], body: Body, raw_request: Request
) -> ChatCompletionRequest:
    """What SGLang makes of a body of either API."""
    if not raw_request.url.path.startswith("/v1/messages"):
        return kind.model_validate(body)
    from sglang.srt.entrypoints.anthropic.protocol import AnthropicMessagesRequest

    serving = raw_request.app.state.anthropic_serving
    made: ChatCompletionRequest = serving._convert_to_chat_completion_request(
        AnthropicMessagesRequest.model_validate(body)
    )
    return made
