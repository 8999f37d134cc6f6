"""Hooks on responses: what a request that declares places has written to the cache.

| API                    | field                                            | filled by         |
|------------------------|--------------------------------------------------|-------------------|
| `/generate`, an Engine | `meta_info.cache_write_tokens`                   | `lift`            |
| `/v1/chat/completions` | `usage.prompt_tokens_details.cache_write_tokens` | `total`, streamed |
|                        |                                                  | `total_in_stream` |
| `/v1/messages`         | `usage.cache_creation_input_tokens`              | `as_anthropic`    |

The scheduler sends it among the details of what was cached, in ``WRITTEN``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from sglang_marconi.declare.transport import WRITTEN, carried

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.entrypoints.anthropic.protocol import AnthropicUsage
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, UsageInfo
    from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
    from sglang.srt.managers.io_struct import EmbeddingReqInput, GenerateReqInput
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

_FIELD = "cache_write_tokens"
_SEEN = "marconi_seen"


def teach_protocol() -> None:
    """Give SGLang's models of a usage the field, which is left out where nothing was declared."""
    from sglang.srt.entrypoints.openai import protocol

    field = Field(default=None, exclude_if=_is_none)
    taught = create_model("Taught", **{_FIELD: (int | None, field)})  # type: ignore[call-overload]
    protocol.PromptTokensDetails.model_fields[_FIELD] = taught.model_fields[_FIELD]
    for model in (
        protocol.PromptTokensDetails,
        protocol.UsageInfo,
        protocol.ChatCompletionResponse,
        protocol.ChatCompletionStreamResponse,
        protocol.CompletionResponse,
    ):
        model.model_rebuild(force=True)


def _is_none(value: object) -> bool:
    return value is None


def declares(obj: GenerateReqInput | EmbeddingReqInput) -> bool:
    """Whether a request declares places, or one of a batch does."""
    given = obj.sampling_params
    return any(
        carried(each.get("custom_params")) is not None
        for each in (given if isinstance(given, list) else [given])
        if isinstance(each, dict)
    )


def lift(
    original: Callable[..., AsyncGenerator[Any, None]],
    manager: TokenizerManager,
    obj: GenerateReqInput | EmbeddingReqInput,
    request: Request | None = None,
) -> AsyncIterator[Any]:
    """Around ``TokenizerManager.generate_request``: the number, in the ``meta_info``."""
    outputs = original(manager, obj, request)
    return _lifted(outputs, obj) if declares(obj) else outputs


async def _lifted(outputs: AsyncGenerator[Any, None], obj: Any) -> AsyncIterator[Any]:
    # Closed with this one: what SGLang does at its end is not to wait for a garbage collection.
    async with aclosing(outputs):
        async for output in outputs:
            for each in output if isinstance(output, list) else [output]:
                meta = each["meta_info"]
                _lift(meta)
                if _FIELD in meta and each.get("index", 0) == 0:
                    setattr(obj, _SEEN, (meta["cached_tokens"], meta[_FIELD]))
            yield output


def _lift(meta: dict[str, Any]) -> None:
    details = meta.get("cached_tokens_details")
    if details and WRITTEN in details:
        details = dict(details)
        meta[_FIELD] = details.pop(WRITTEN)
        # As of a request that declares nothing.
        meta["cached_tokens_details"] = details if any(details.values()) else None


def total(
    usage: UsageInfo, responses: Sequence[dict[str, Any]], n_choices: int = 1, **_: Any
) -> UsageInfo:
    """After ``UsageProcessor.calculate_response_usage``: of all prompts, each counted once."""
    from sglang.srt.entrypoints.openai.protocol import PromptTokensDetails

    metas = [response["meta_info"] for response in responses[::n_choices]]
    if any(_FIELD in meta for meta in metas):
        if usage.prompt_tokens_details is None:
            cached = sum(meta.get("cached_tokens", 0) for meta in metas)
            usage.prompt_tokens_details = PromptTokensDetails(cached_tokens=cached)
        written = sum(meta.get(_FIELD, 0) for meta in metas)
        setattr(usage.prompt_tokens_details, _FIELD, written)
    return usage


def total_in_stream(
    original: Callable[..., AsyncGenerator[str, None]],
    serving: OpenAIServingChat,
    adapted_request: GenerateReqInput,
    request: ChatCompletionRequest,
    raw_request: Request,
) -> AsyncIterator[str]:
    """Around ``OpenAIServingChat._generate_chat_stream``: the same, in chunks with a usage."""
    chunks = original(serving, adapted_request, request, raw_request)
    return _with_usage(chunks, adapted_request) if declares(adapted_request) else chunks


async def _with_usage(chunks: AsyncGenerator[str, None], obj: Any) -> AsyncIterator[str]:
    async with aclosing(chunks):
        async for chunk in chunks:
            seen: tuple[int, int] | None = getattr(obj, _SEEN, None)
            yield chunk if seen is None else _told(chunk, *seen)


def _told(chunk: str, cached: int, written: int) -> str:
    """A chunk of a stream, with what was written in its usage, if it has one."""
    data = "data: "
    if '"usage":{' not in chunk or not chunk.startswith(f"{data}{{"):
        return chunk
    message = json.loads(chunk.removeprefix(data))
    usage = message.get("usage")
    # In what the model says, the same may stand.
    if not usage:
        return chunk
    details = usage.get("prompt_tokens_details") or {"cached_tokens": cached}
    usage["prompt_tokens_details"] = {**details, _FIELD: written}
    return f"{data}{json.dumps(message, ensure_ascii=False, separators=(',', ':'))}\n\n"


def as_anthropic(
    result: AnthropicUsage, usage: UsageInfo | None, *, include_input: bool, **_: Any
) -> AnthropicUsage:
    """After ``_anthropic_usage_from_openai``: tokens written are not among other input tokens."""
    written = getattr(getattr(usage, "prompt_tokens_details", None), _FIELD, None)
    if include_input and written is not None:
        result.cache_creation_input_tokens = written
        result.cache_read_input_tokens = result.cache_read_input_tokens or 0
        result.input_tokens = max(0, (result.input_tokens or 0) - written)
    return result
