"""The conversation with a server, over its native endpoints."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from sglang_marconi.traces.words import WORDS
from sglang_marconi.verify.comparison import LIKELIEST, Answer
from sglang_marconi.verify.facts import Facts, facts_of

_TIMEOUT = 600.0
_CONNECT = 10.0
_FLUSH_WAIT = 30
"""Seconds."""
_FEWEST_IDS = 32
_IMPOSSIBLE = -1e4
"""A log probability below all others."""


class VerifyError(RuntimeError):
    """Nothing can be said: no server, or not one that can be asked; the message says which."""


class Request(msgspec.Struct, frozen=True):
    """A prompt (token ids) and the most tokens of a greedy reply.

    ``stop``: token ids that end it. Without ``log_probabilities`` a server that mixes prefill
    and decode may mix it.
    """

    prompt: tuple[int, ...]
    tokens: int
    stop: tuple[int, ...] = ()
    log_probabilities: bool = True


class Server:
    """One server, asked through ``url`` with ``key`` as its API key if it has one.

    An empty cache is had by flushing, or, where ``may_flush`` is not or the server refuses, by a
    ``cache_salt``: SGLang keeps the prefixes of each salt apart from all others'.
    """

    def __init__(self, url: str, key: str | None = None, *, may_flush: bool = True) -> None:
        self.url = url
        self.flushes = may_flush
        self.facts = Facts()
        self._salt: str | None = None
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(_TIMEOUT, connect=_CONNECT),
            limits=httpx.Limits(max_connections=None),
        )

    async def __aenter__(self) -> Self:
        """Raises ``VerifyError`` where no SGLang server answers."""
        try:
            self.facts = facts_of(await self._info())
        except BaseException:
            await self._client.aclose()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def empty(self) -> None:
        """From here on nothing that was sent before can be reused."""
        if self.flushes:
            response = await self._send("POST", f"/flush_cache?timeout={_FLUSH_WAIT}")
            if response.status_code == 200:
                return
            # Not allowed with this key, or others' requests are running.
            self.flushes = False
        self._salt = _new_salt()

    async def generate(self, request: Request) -> Answer:
        """Raises ``VerifyError`` where the server refuses or cuts the request short."""
        return self._answer(request, await self._post("/generate", self._salted(request)))

    async def cold(self, request: Request) -> Answer:
        """The answer of an empty cache, with log probabilities."""
        await self.empty()
        return await self.cold_beside(request)

    async def cold_beside(self, request: Request) -> Answer:
        """Like ``cold``, in a cache that the caller has emptied and filled with nothing like it."""
        asked = msgspec.structs.replace(request, log_probabilities=True)
        answer = await self.generate(asked)
        if answer.cached:
            raise VerifyError(
                f"{self.url}: {answer.cached} tokens of a prompt were reused that the server "
                "cannot have seen: its cache can be emptied neither by a flush nor by a salt"
            )
        return answer

    async def apart(self, request: Request) -> Answer:
        """The answer under a salt of its own, whatever else is in the cache or being asked."""
        asked = msgspec.structs.replace(request, log_probabilities=True)
        body = self.body(asked) | {"cache_salt": _new_salt()}
        return self._answer(asked, await self._post("/generate", body))

    async def hang_up(self, request: Request, seconds: float) -> None:
        """Send a request and close the connection after so long."""
        body = {**self._salted(request), "stream": True}
        try:
            async with asyncio.timeout(seconds):
                async with self._client.stream("POST", "/generate", json=body) as response:
                    async for _ in response.aiter_bytes():
                        pass
        except TimeoutError:
            pass
        except httpx.HTTPError as error:
            raise VerifyError(f"{self.url}/generate: {error!r}") from error

    def body(self, request: Request) -> dict[str, Any]:
        """What is sent to ``/generate``, but for a salt.

        What a server's defaults could make otherwise than greedy is given.
        """
        sampling: dict[str, Any] = {
            "temperature": 0,
            "max_new_tokens": request.tokens,
            "ignore_eos": not request.stop,
            "repetition_penalty": 1.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
        }
        if request.stop:
            sampling["stop_token_ids"] = list(request.stop)
        body: dict[str, Any] = {"input_ids": list(request.prompt), "sampling_params": sampling}
        if request.log_probabilities:
            body |= {"return_logprob": True, "top_logprobs_num": LIKELIEST}
        if self.facts.replicas > 1:
            # Each replica has a cache of its own.
            body["routed_dp_rank"] = 0
        return body

    def _salted(self, request: Request) -> dict[str, Any]:
        salt = {} if self._salt is None else {"cache_salt": self._salt}
        return self.body(request) | salt

    async def ordinary_ids(self) -> list[int]:
        """Ids of tokens that prompts may be made of: those that ordinary text is made of.

        An id outside the vocabulary ends SGLang's scheduler, so none is guessed. Where the server
        has no tokenizer they are the likeliest tokens of a reply: what a model generates, it also
        reads. Raises ``VerifyError`` where there are hardly any.
        """
        texts = [f" {word}" for word in WORDS] + [f"{word} {len(word)}" for word in WORDS]
        response = await self._send(
            "POST", "/v1/tokenize", {"prompt": texts, "add_special_tokens": False}
        )
        ids = set[int]()
        if response.status_code == 200:
            tokens = [set(tokens) for tokens in response.json()["tokens"]]
            # What every text has is no part of any: a tokenizer may begin each one alike.
            ids = set.union(*tokens) - set.intersection(*tokens)
        if not ids:
            body = self.body(Request((0,), 1)) | {"top_logprobs_num": 20 * _FEWEST_IDS}
            reply = await self._post("/generate", body)
            ids = {entry[1] for entry in reply["meta_info"]["output_top_logprobs"][0]}
        if len(ids) < _FEWEST_IDS:
            raise VerifyError(f"{self.url}: only {len(ids)} ids of ordinary tokens to be found")
        return sorted(ids)

    async def _info(self) -> dict[str, Any]:
        response = await self._send("GET", "/server_info")
        if response.status_code == 404:
            response = await self._send("GET", "/get_server_info")
        info = self._decoded(response, "/server_info")
        if not isinstance(info, dict) or "internal_states" not in info:
            raise VerifyError(f"{self.url}/server_info is not what a SGLang server answers")
        return info

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._decoded(await self._send("POST", path, body), path)

    async def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> httpx.Response:
        try:
            return await self._client.request(method, path, json=body)
        except httpx.InvalidURL as error:
            raise VerifyError(f"{self.url}: {error}") from error
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
            raise VerifyError(f"{self.url}{path}: {said}") from error

    def _decoded(self, response: httpx.Response, path: str) -> Any:
        if response.status_code != 200:
            raise VerifyError(
                f"{self.url}{path}: {response.status_code} {response.text.strip()[:300]}"
            )
        try:
            return response.json()
        except ValueError as error:
            raise VerifyError(f"{self.url}{path}: its answer is no JSON: {error}") from error

    def _answer(self, request: Request, reply: dict[str, Any]) -> Answer:
        meta = reply["meta_info"]
        finish = str((meta.get("finish_reason") or {}).get("type"))
        if finish not in {"length", "stop"}:
            raise VerifyError(f"{self.url}: a request was not answered: {meta['finish_reason']}")
        if meta["prompt_tokens"] != len(request.prompt):
            raise VerifyError(
                f"{self.url}: a prompt of {len(request.prompt)} tokens was taken for one of "
                f"{meta['prompt_tokens']}"
            )
        tokens = reply["output_ids"]
        likeliest: list[dict[int, float]] = []
        if request.log_probabilities:
            chosen = _entries(meta, "output_token_logprobs", self.url)
            others = _entries(meta, "output_top_logprobs", self.url)
            likeliest = [
                _likeliest([entry, *entries])
                for entry, entries in zip(chosen, others, strict=False)
            ]
            if len(likeliest) != len(tokens):
                raise VerifyError(
                    f"{self.url}: log probabilities of {len(likeliest)} of {len(tokens)} tokens"
                )
        return Answer(tokens, likeliest, meta["cached_tokens"], finish)


def _new_salt() -> str:
    return f"sglang-marconi verify {uuid.uuid4()}"


def _entries(meta: dict[str, Any], name: str, url: str) -> Sequence[Any]:
    entries = meta.get(name)
    if entries is None:
        raise VerifyError(f"{url} returns no {name}")
    return list(entries)


def _likeliest(entries: Sequence[Sequence[Any]]) -> dict[int, float]:
    """Of entries that begin with a log probability, null where it is no number, and an id."""
    return {entry[1]: _IMPOSSIBLE if entry[0] is None else float(entry[0]) for entry in entries}
