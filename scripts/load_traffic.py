"""The kinds of traffic of the load test: each sends something and checks the answer.

`KINDS` lists them with how often each comes. Left out is what ends a server of SGLang 0.5.23
with any cache, its own too: an empty prompt to a Mamba2 model, and token ids outside the
vocabulary. Likewise a JSON body that is no object, to which its chat endpoint answers with 500.
"""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
from sglang_marconi.traces.words import WORDS

_SYSTEMS, _REPEATED = 6, 8
_LOWEST_ID, _HIGHEST_ID = 300, 1000
"""Ids of ordinary tokens of the small model."""


class BadAnswerError(RuntimeError):
    """The server did not answer as it should."""


class Sample(NamedTuple):
    """A greedy answer, and the version of the weights that the server says it is from."""

    prompt: list[int]
    reply: list[int]
    version: str


@dataclass
class Caller:
    """Asks one server, and keeps a fair sample of `most_samples` of the greedy answers."""

    client: httpx.AsyncClient
    chooser: random.Random
    most_samples: int
    samples: list[Sample] = field(default_factory=list)
    asked: int = 0
    totals: Counter[str] = field(default_factory=Counter)
    """Tokens prompted and cached, and retractions, of all greedy answers."""

    async def post(self, path: str, body: object) -> httpx.Response:
        return await self.client.post(path, json=body)

    async def expect(self, path: str, body: object) -> Any:
        """The answer, which must be a success, decoded."""
        answer = await self.post(path, body)
        _require(answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:300]}")
        return answer.json() if answer.text[:1] in ("{", "[") else answer.text

    async def ask(self, prompt: Sequence[int], tokens: int, **fields: Any) -> dict[str, Any]:
        """Greedy generation of exactly so many tokens; may be kept as a sample."""
        answer: dict[str, Any] = await self.expect(
            "/generate", generation(prompt, tokens, **fields)
        )
        meta, reply = answer["meta_info"], answer["output_ids"]
        _require(len(reply) == tokens, f"{len(reply)} tokens instead of {tokens}: {meta}")
        _require(meta["prompt_tokens"] == len(prompt), f"of {len(prompt)} tokens: {meta}")
        self.totals["prompt tokens"] += len(prompt)
        self.totals["cached tokens"] += meta["cached_tokens"]
        self.totals["retractions"] += meta["num_retractions"]
        self._keep(Sample(list(prompt), reply, meta["weight_version"]))
        return answer

    def _keep(self, sample: Sample) -> None:
        """Each answer so far is among the samples with the same probability."""
        self.asked += 1
        at = self.chooser.randrange(self.asked)
        if len(self.samples) < self.most_samples:
            self.samples.append(sample)
        elif at < self.most_samples:
            self.samples[at] = sample


def generation(prompt: Sequence[int], tokens: int, **fields: Any) -> dict[str, Any]:
    """The body of a greedy request to `/generate`.

    The small model never ends a greedy reply. SGLang does not know: requests that must ignore
    their end are admitted only where all their tokens fit, so that none is ever retracted.
    """
    sampling = {"temperature": 0, "max_new_tokens": tokens}
    return {"input_ids": list(prompt), "sampling_params": sampling, **fields}


def token_ids(chooser: random.Random, count: int) -> list[int]:
    return [chooser.randrange(_LOWEST_ID, _HIGHEST_ID) for _ in range(count)]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadAnswerError(otherwise)


def _system(chooser: random.Random) -> list[int]:
    """One of a few beginnings that requests share."""
    number = chooser.randrange(_SYSTEMS)
    return token_ids(random.Random(number), 80 + 40 * number)


def _text(chooser: random.Random, words: int) -> str:
    return " ".join(chooser.choices(WORDS, k=words))


# ---- well-formed ----


async def _conversation(caller: Caller, chooser: random.Random) -> None:
    prompt = _system(chooser) + token_ids(chooser, 30)
    for _ in range(chooser.randint(2, 4)):
        answer = await caller.ask(prompt, chooser.randint(8, 32))
        prompt = prompt + answer["output_ids"] + token_ids(chooser, chooser.randint(10, 60))


async def _chat(caller: Caller, chooser: random.Random) -> None:
    system = _text(random.Random(chooser.randrange(_SYSTEMS)), 60)
    messages = [{"role": "system", "content": system}]
    for _ in range(chooser.randint(2, 3)):
        messages.append({"role": "user", "content": _text(chooser, 12)})
        body = {"model": "m", "messages": messages, "max_tokens": 16, "temperature": 0}
        answer = await caller.expect("/v1/chat/completions", body)
        [choice] = answer["choices"]
        _require(choice["finish_reason"] in ("length", "stop"), str(choice))
        messages.append({"role": "assistant", "content": choice["message"]["content"]})


async def _repeated(caller: Caller, chooser: random.Random) -> None:
    same = random.Random(f"repeated {chooser.randrange(_REPEATED)}")
    await caller.ask(token_ids(same, same.randint(20, 400)), 16)


async def _branching(caller: Caller, chooser: random.Random) -> None:
    prefix = _system(chooser) + token_ids(chooser, chooser.randint(1, 100))
    prompts = [prefix + token_ids(chooser, chooser.randint(1, 80)) for _ in range(3)]
    await asyncio.gather(*(caller.ask(prompt, 12) for prompt in prompts))


async def _long_replies(caller: Caller, chooser: random.Random) -> None:
    """Together they outgrow the memory that they were admitted into."""
    prompts = [token_ids(chooser, 200) for _ in range(6)]
    await asyncio.gather(*(caller.ask(prompt, 350) for prompt in prompts))


async def _several_replies(caller: Caller, chooser: random.Random) -> None:
    sampling = {"temperature": 0.8, "max_new_tokens": 12, "n": 3, "ignore_eos": True}
    body = {"input_ids": _system(chooser), "sampling_params": sampling}
    answers = await caller.expect("/generate", body)
    lengths = [len(answer["output_ids"]) for answer in answers]
    _require(lengths == [12] * 3, f"replies of {lengths} tokens")


async def _log_probabilities(caller: Caller, chooser: random.Random) -> None:
    prompt = _system(chooser) + token_ids(chooser, 20)
    start = chooser.choice((0, len(prompt) // 2, len(prompt) - 1))
    fields = {"return_logprob": True, "logprob_start_len": start, "top_logprobs_num": 2}
    meta = (await caller.ask(prompt, 8, **fields))["meta_info"]
    given = len(meta["input_token_logprobs"]), len(meta["output_token_logprobs"])
    _require(given == (len(prompt) - start, 8), f"log probabilities of {given} tokens")


_SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
_REGEX = "(yes|no), (one|two|three)"


async def _structured(caller: Caller, chooser: random.Random) -> None:
    sampling: dict[str, Any] = {"temperature": 0, "max_new_tokens": 64}
    as_json = chooser.random() < 0.5
    sampling |= {"json_schema": json.dumps(_SCHEMA)} if as_json else {"regex": _REGEX}
    body = {"text": _text(chooser, chooser.randint(1, 50)), "sampling_params": sampling}
    text = (await caller.expect("/generate", body))["text"]
    if as_json:
        _require(json.loads(text).keys() == {"a", "b"}, text)
    else:
        _require(re.fullmatch(_REGEX, text) is not None, text)


async def _unicode(caller: Caller, chooser: random.Random) -> None:
    # All planes, with nulls and direction marks; surrogates are no characters.
    numbers = (chooser.choice((0xFF, 0xD7FF, 0x10FFFF)) for _ in range(chooser.randint(1, 60)))
    points = (chooser.randrange(number + 1) for number in numbers)
    text = "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000) or "\0"
    body = {"text": text, "sampling_params": {"temperature": 0, "max_new_tokens": 4}}
    answer = await caller.expect("/generate", body)
    _require(answer["meta_info"]["prompt_tokens"] > 0, str(answer))


async def _empty(caller: Caller, chooser: random.Random) -> None:
    messages = [{"role": "user", "content": ""}]
    body = {"model": "m", "messages": messages, "max_tokens": 4, "temperature": 0}
    await caller.expect("/v1/chat/completions", body)
    # Nothing but a prefill.
    await caller.ask(_system(chooser) + token_ids(chooser, 5), 0)


# ---- broken off ----


async def _hang_up(caller: Caller, chooser: random.Random) -> None:
    """In the queue, in the prefill or while decoding."""
    body = generation(_system(chooser) + token_ids(chooser, 200), 300, stream=True)
    async with caller.client.stream("POST", "/generate", json=body) as answer:
        _require(answer.status_code == 200, str(answer.status_code))
        await asyncio.sleep(chooser.choice((0, 0.02, 0.3, 1)))


async def _abort(caller: Caller, chooser: random.Random) -> None:
    name = f"to-abort-{chooser.getrandbits(64):x}"
    body = generation(_system(chooser) + token_ids(chooser, 200), 300, rid=name)
    running = asyncio.ensure_future(caller.post("/generate", body))
    await asyncio.sleep(chooser.choice((0, 0.02, 0.3, 1)))
    await caller.expect("/abort_request", {"rid": name})
    answer = await running
    _require(answer.status_code == 200, f"{answer.status_code} {answer.text[:300]}")
    end = answer.json()["meta_info"]["finish_reason"]["type"]
    _require(end in ("abort", "length"), f"it ended by {end}")


# ---- refused ----


async def _refused(caller: Caller, path: str, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await caller.client.post(path, content=content, headers=headers)
    said = f"{path} {content[:80]!r}: {answer.status_code} {answer.text[:300]}"
    _require(400 <= answer.status_code < 500, said)


async def _too_long(caller: Caller, chooser: random.Random) -> None:
    ids = token_ids(chooser, chooser.choice((5_000, 70_000)))
    await _refused(caller, "/generate", json.dumps(generation(ids, 4)).encode())


_MALFORMED: tuple[bytes, ...] = (
    b"",
    b'{"text": "a',
    bytes(range(256)),
    b'{"text": 1, "messages": 2, "prompt": {}}',
    b'{"input_ids": [1.5], "messages": [], "prompt": 1.5}',
    b'{"sampling_params": {}, "messages": [{"role": "queen"}]}',
)
_BAD_SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": -1},
    {"max_new_tokens": -5},
    {"unheard_of": 1},
    {"regex": "(a"},
    {"json_schema": "{"},
)


async def _malformed(caller: Caller, chooser: random.Random) -> None:
    path = chooser.choice(("/generate", "/v1/chat/completions", "/v1/completions"))
    await _refused(caller, path, chooser.choice(_MALFORMED))
    bad = {"text": "a", "sampling_params": chooser.choice(_BAD_SAMPLING)}
    await _refused(caller, "/generate", json.dumps(bad).encode())


# ---- operations ----


async def _flush(caller: Caller, chooser: random.Random) -> None:
    """Amid the rest: the server says no while requests are running."""
    answer = await caller.post("/flush_cache", {})
    _require(answer.status_code in (200, 400), f"{answer.status_code} {answer.text[:300]}")


class Kind(NamedTuple):
    """A kind of traffic; of `weight` times as many as one of weight 1."""

    name: str
    weight: int
    send: Callable[[Caller, random.Random], Awaitable[None]]


KINDS = (
    Kind("conversation", 8, _conversation),
    Kind("chat", 6, _chat),
    Kind("repeated", 6, _repeated),
    Kind("branching", 8, _branching),
    Kind("long replies", 1, _long_replies),
    Kind("several replies", 2, _several_replies),
    Kind("log probabilities", 3, _log_probabilities),
    Kind("structured", 3, _structured),
    Kind("unicode", 3, _unicode),
    Kind("empty", 2, _empty),
    Kind("hung up", 4, _hang_up),
    Kind("aborted", 3, _abort),
    Kind("too long", 2, _too_long),
    Kind("malformed", 3, _malformed),
    Kind("flush", 1, _flush),
)
