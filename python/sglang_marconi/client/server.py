"""Drives a running server with a request stream through its OpenAI-compatible API.

The server must run with `--enable-cache-report`, or it does not say what it reused.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

from httpx import Limits
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError
from openai.types import Completion, CompletionUsage
from openai.types.chat import ChatCompletionChunk

from sglang_marconi.client.backlog import send_at_most, send_on_time
from sglang_marconi.client.vocabulary import Vocabulary
from sglang_marconi.records import RequestRecord
from sglang_marconi.traces.requests import ChatRequest, Message, Request, TraceRequest


class ReplayError(RuntimeError):
    """The server cannot be reached, or a request failed; the message names which."""


async def replay(
    url: str,
    requests: Sequence[Request],
    *,
    trace: str,
    policy: str = "server",
    concurrency: int | None = None,
    speed: float | None = None,
    vocabulary: Sequence[int] = range(256),
    on_record: Callable[[RequestRecord], None] = lambda _: None,
) -> list[RequestRecord]:
    """Sends every request and returns a record of each, in the order they were sent.

    Either as fast as at most `concurrency` requests at a time allow, in the order of the
    stream; or each at its arrival, divided by `speed`, however many that are at a time. A turn
    always waits for the reply to the turn before it. Decoding is greedy.

    What the server replied goes into the session's history. A chat request goes out as the
    history's messages and its new ones. A request of a trace goes out as token ids out of
    `vocabulary`: where it continues its session, the history's, else the recorded ones; its
    reply is made as long as the recorded one, at least one token. A turn that continues one
    that is not in the stream is sent as recorded.

    `url` is the server's root, such as `http://127.0.0.1:30000`; `trace` and `policy` are what
    the records call the stream and the server. A record's arrival is when it was sent, in
    seconds from the start of the run. `on_record` is called as each request ends.

    Raises `ReplayError` for the first request that fails, and drops the others; `ValueError`
    unless just one of `concurrency` and `speed` is given.
    """
    if (concurrency is None) == (speed is None):
        raise ValueError("give either a concurrency or a speed")
    # A retry would find its own prompt in the cache, so a failure is a failure; and on a
    # busy machine even connecting may take longer than the client's usual five seconds.
    async with AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        max_retries=0,
        timeout=_TIMEOUT,
        # A request that waits here for a connection would look like a slow server.
        http_client=DefaultAsyncHttpxClient(limits=Limits(max_connections=None)),
    ) as client:
        try:
            model = (await client.models.list()).data[0].id
        except OpenAIError as error:
            raise ReplayError(f"{url}: {error}") from error
        record = partial(RequestRecord, trace=trace, policy=policy, model=model, budget_bytes=None)
        run = _Replay(client, model, requests, Vocabulary(vocabulary), record, on_record)
        if concurrency is not None:
            await send_at_most(concurrency, requests, run.send)
        elif speed is not None:
            await send_on_time(speed, requests, run.send)
    return sorted(run.records, key=lambda record: record.arrival)


_TIMEOUT = 600.0  # seconds, for connecting and between two tokens


class _Replay:
    """One run: the histories of its sessions and the records so far."""

    def __init__(
        self,
        client: AsyncOpenAI,
        model: str,
        requests: Sequence[Request],
        vocabulary: Vocabulary,
        record: Callable[..., RequestRecord],
        on_record: Callable[[RequestRecord], None],
    ) -> None:
        self._client = client
        self._model = model
        self._vocabulary = vocabulary
        self._record = record
        self._on_record = on_record
        self._start = perf_counter()
        self._chats: defaultdict[str, list[Message]] = defaultdict(list)
        # Token histories are long and sessions many: only those yet to be continued are kept.
        self._tokens: dict[str, list[int]] = {}
        self._to_continue = Counter(
            request.session_id
            for request in requests
            if isinstance(request, TraceRequest) and request.continues
        )
        self.records: list[RequestRecord] = []

    async def send(self, request: Request) -> None:
        """Returns at the end of the reply, which is in the history and the records then."""
        try:
            if isinstance(request, ChatRequest):
                reply = await self._chat(request)
            else:
                reply = await self._complete(request)
        except (OpenAIError, _BadReply) as error:
            where = f"session {request.session_id}, turn {request.turn}"
            raise ReplayError(f"{where}: {error}") from error
        record = self._record(session_id=request.session_id, turn=request.turn, **reply._asdict())
        self.records.append(record)
        self._on_record(record)

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

    async def _complete(self, request: TraceRequest) -> "_Reply":
        history = self._prompt(request)
        watch = _Stopwatch(self._start)
        chunks: AsyncIterator[Completion] = await self._client.completions.create(
            model=self._model,
            prompt=history,
            max_tokens=max(len(request.reply), 1),
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
        if self._to_continue[request.session_id]:
            self._tokens[request.session_id] = history
        return watch.reply(usage)

    def _prompt(self, request: TraceRequest) -> list[int]:
        recorded = self._vocabulary.fold(request.prompt)
        if not request.continues:
            return recorded
        self._to_continue[request.session_id] -= 1
        history = self._tokens.pop(request.session_id, recorded[: request.continues])
        return history + recorded[request.continues :]


class _BadReply(Exception):
    """The server's answer lacks what a record needs."""


class _Reply(NamedTuple):
    """The fields of a `RequestRecord` that come from the server and the clock."""

    arrival: float
    prompt_tokens: int
    hit_tokens: int
    ttft: float
    tpot: float | None


class _Stopwatch:
    """Times one request from its creation; `start` is that of the run."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._sent = perf_counter()
        self._first: float | None = None
        self._last = self._sent

    def token(self) -> None:
        self._last = perf_counter()
        if self._first is None:
            self._first = self._last

    def reply(self, usage: CompletionUsage | None) -> _Reply:
        """The finished request. Raises `_BadReply` if a token or the counts are missing."""
        if self._first is None:
            raise _BadReply("the reply has no token")
        if usage is None:
            raise _BadReply("the reply has no usage")
        details = usage.prompt_tokens_details
        if details is None or details.cached_tokens is None:
            raise _BadReply("no cached_tokens in usage: start it with --enable-cache-report")
        after_first = usage.completion_tokens - 1
        return _Reply(
            arrival=self._sent - self._start,
            prompt_tokens=usage.prompt_tokens,
            hit_tokens=details.cached_tokens,
            ttft=self._first - self._sent,
            tpot=(self._last - self._first) / after_first if after_first else None,
        )
