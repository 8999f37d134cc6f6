"""Drives a running server with a request stream through its OpenAI-compatible API.

The server must run with `--enable-cache-report`, or it does not say what it reused.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from openai import AsyncOpenAI, OpenAIError
from openai.types import Completion, CompletionUsage
from openai.types.chat import ChatCompletionChunk

from sglang_marconi.replay.backlog import Backlog
from sglang_marconi.replay.records import Record
from sglang_marconi.replay.requests import ChatRequest, Message, Request, TokenRequest


class ReplayError(RuntimeError):
    """A request failed; the message names its session and turn."""


async def replay(
    url: str,
    requests: Sequence[Request],
    *,
    concurrency: int,
    on_record: Callable[[Record], None] = lambda _: None,
) -> list[Record]:
    """Sends every request and returns a record of each, in the order they were sent.

    Requests are sent in the order of the stream, as fast as at most `concurrency` of them at a
    time allow; a turn waits for the reply to the turn before it. Decoding is greedy. What the
    server replied goes into the session's history: as text for chat, as token ids otherwise,
    where the reply is made as long as the recorded one. `on_record` is called as each ends.

    `url` is the server's root, such as `http://127.0.0.1:30000`. Raises `ReplayError` for the
    first request that fails, and drops the others.
    """
    # A retry would find its own prompt in the cache, so a failure is a failure; and on a
    # busy machine even connecting may take longer than the client's usual five seconds.
    async with AsyncOpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=_TIMEOUT
    ) as client:
        return await _Replay(client, requests, on_record).run(concurrency)


_TIMEOUT = 600.0  # seconds, for connecting and between two tokens


class _Replay:
    """One run: the histories of its sessions and the records so far."""

    def __init__(
        self, client: AsyncOpenAI, requests: Sequence[Request], on_record: Callable[[Record], None]
    ) -> None:
        self._client = client
        self._model = ""
        self._backlog = Backlog(requests)
        self._on_record = on_record
        self._start = 0.0
        self._chats: defaultdict[str, list[Message]] = defaultdict(list)
        self._tokens: defaultdict[str, list[int]] = defaultdict(list)
        self._records: list[Record] = []

    async def run(self, concurrency: int) -> list[Record]:
        self._model = (await self._client.models.list()).data[0].id
        self._start = perf_counter()
        workers = [asyncio.create_task(self._work()) for _ in range(concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return sorted(self._records, key=lambda record: record.sent)

    async def _work(self) -> None:
        while (request := await self._backlog.take()) is not None:
            try:
                reply = await self._send(request)
            except (OpenAIError, _BadReply) as error:
                where = f"session {request.session_id}, turn {request.turn}"
                raise ReplayError(f"{where}: {error}") from error
            record = Record(request.session_id, request.turn, *reply)
            self._records.append(record)
            self._on_record(record)
            await self._backlog.done(request)

    async def _send(self, request: Request) -> "_Reply":
        if isinstance(request, ChatRequest):
            return await self._chat(request)
        return await self._complete(request)

    async def _chat(self, request: ChatRequest) -> "_Reply":
        history = self._chats[request.session_id]
        history.extend(request.new_messages)
        messages: list[Any] = [message._asdict() for message in history]
        watch = _Stopwatch(self._start)
        chunks: AsyncIterator[ChatCompletionChunk] = await self._client.chat.completions.create(
            model=self._model,
            messages=messages,
            max_completion_tokens=request.max_output_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        text = ""
        usage = None
        async for chunk in chunks:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                if choice.delta.content:
                    watch.token()
                    text += choice.delta.content
        history.append(Message("assistant", text))
        return watch.reply(usage)

    async def _complete(self, request: TokenRequest) -> "_Reply":
        history = self._tokens[request.session_id]
        history.extend(request.new_tokens)
        watch = _Stopwatch(self._start)
        chunks: AsyncIterator[Completion] = await self._client.completions.create(
            model=self._model,
            prompt=history,
            max_tokens=len(request.reply_tokens),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        usage = None
        async for chunk in chunks:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                if tokens := (choice.model_extra or {}).get("token_ids"):
                    watch.token()
                    history.extend(tokens)
        return watch.reply(usage)


class _BadReply(Exception):
    """The server's answer lacks what a record needs."""


class _Reply(NamedTuple):
    """The fields of a `Record` that come from the server and the clock, in its order."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    sent: float
    ttft: float
    total: float


class _Stopwatch:
    """Times one request from its creation; `origin` is the start of the run."""

    def __init__(self, origin: float) -> None:
        self._origin = origin
        self._sent = perf_counter()
        self._first: float | None = None

    def token(self) -> None:
        if self._first is None:
            self._first = perf_counter()

    def reply(self, usage: CompletionUsage | None) -> _Reply:
        """The finished request. Raises `_BadReply` if a token or the counts are missing."""
        end = perf_counter()
        if self._first is None:
            raise _BadReply("the reply has no token")
        if usage is None:
            raise _BadReply("the reply has no usage")
        details = usage.prompt_tokens_details
        if details is None or details.cached_tokens is None:
            raise _BadReply("no cached_tokens in usage: start it with --enable-cache-report")
        return _Reply(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=details.cached_tokens,
            output_tokens=usage.completion_tokens,
            sent=self._sent - self._origin,
            ttft=self._first - self._sent,
            total=end - self._sent,
        )
