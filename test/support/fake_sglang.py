"""A server that speaks as SGLang does, with a made-up model and a made-up prefix cache."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from itertools import accumulate
from math import exp, log
from typing import Any
from zlib import crc32

from support.http_fake import JsonHandler, running

FIRST_ID, IDS = 1000, 200
"""The ids that its tokenizer knows; any other ends the server's life."""


class FakeSGLang(ThreadingHTTPServer):
    """A reply depends on every token before it; ``cached_tokens`` on what was asked since a flush.

    Its fields say what is wrong with it.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.prefixes: dict[str | None, dict[int, None]] = {}
        self.random = random.Random(0)
        self.requests: list[dict[str, Any]] = []
        self.outside: list[int] = []
        """Ids outside the vocabulary that it was sent."""
        self.flushes = 0
        self.key: str | None = None
        self.may_flush = True
        self.minds_salts = True
        self.reuses = True
        self.reads_prompts = True
        self.has_tokenizer = True
        self.holds = 40
        """Prefixes of a namespace."""
        self.evicts_latest = False
        """Instead of the oldest."""
        self.noise = 0.0
        self.drift = 0.0
        """What reuse moves log probabilities by."""
        self.refuses_from: int | None = None
        """Requests from this one on get an error."""
        self.ends_early = False
        """Where something was reused."""
        self.info: dict[str, Any] = {
            "version": "0.5.23",
            "model_path": "fake",
            "chunked_prefill_size": 256,
            "max_req_input_len": 4000,
            "max_total_num_tokens": 20_000,
            "page_size": 1,
            "dp_size": 1,
            "internal_states": [
                {
                    "uses_mamba_radix_cache": True,
                    "max_mamba_cache_size": 40,
                    "effective_max_running_requests_per_dp": 8,
                    "radix_cache_backend": "marconi",
                    "mamba_radix_cache_strategy": "extra_buffer",
                }
            ],
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt, sampling = body["input_ids"], body["sampling_params"]
        with self.lock:
            self.requests.append(body)
            self.outside += [id for id in prompt if id and not FIRST_ID <= id < FIRST_ID + IDS]
            cached = self._reused(body.get("cache_salt"), prompt)
        tokens: list[int] = []
        chosen: list[Any] = []
        top: list[Any] = []
        stop = sampling.get("stop_token_ids") or []
        count = sampling["max_new_tokens"]
        if cached and self.ends_early:
            count //= 2
        likeliest = body.get("top_logprobs_num", 1)
        read = _read(prompt)[-1] if self.reads_prompts else 0
        while len(tokens) < count and not (tokens and tokens[-1] in stop):
            entries = self._next(read, bool(cached), max(likeliest, 8))
            tokens.append(entries[0][1])
            chosen.append(entries[0])
            top.append(entries[:likeliest])
            [read] = _read(tokens[-1:], read if self.reads_prompts else 0)
        with self.lock:
            self._keep(body.get("cache_salt"), [*prompt, *tokens])
        stopped = bool(tokens) and tokens[-1] in stop
        meta = {
            "prompt_tokens": len(prompt),
            "cached_tokens": cached,
            "finish_reason": {"type": "stop" if stopped else "length"},
        }
        if body.get("return_logprob"):
            meta |= {"output_token_logprobs": chosen, "output_top_logprobs": top}
        return {"output_ids": tokens, "meta_info": meta}

    def _next(self, read: int, reused: bool, count: int) -> list[Any]:
        """So many tokens with their log probabilities, the likeliest first."""
        model = random.Random(read)
        ids = model.sample(range(FIRST_ID, FIRST_ID + IDS), min(count, IDS))
        logits = [model.gauss(0, 2) for _ in ids]
        with self.lock:
            logits = [logit + self.random.gauss(0, 1) * self.noise for logit in logits]
        if reused:
            logits = [logit + model.gauss(0, 1) * self.drift for logit in logits]
        total = log(sum(map(exp, logits)))
        entries = [[logit - total, id, None] for logit, id in zip(logits, ids, strict=True)]
        return sorted(entries, reverse=True)

    def _reused(self, salt: str | None, prompt: list[int]) -> int:
        """The longest beginning of the prompt that was filed."""
        filed = self.prefixes.get(salt if self.minds_salts else None, {})
        lengths = [length for length, read in enumerate(_read(prompt[:-1]), 1) if read in filed]
        return max(lengths, default=0) if self.reuses else 0

    def _keep(self, salt: str | None, tokens: list[int]) -> None:
        """File the beginnings of what was read, in steps of 16 tokens, and the end."""
        filed = self.prefixes.setdefault(salt if self.minds_salts else None, {})
        read = _read(tokens[:-1])
        filed.update(dict.fromkeys([*read[15::16], read[-1]]))
        while len(filed) > self.holds * 16:
            filed.popitem() if self.evicts_latest else filed.pop(next(iter(filed)))


def _read(tokens: list[int], before: int = 0) -> list[int]:
    """A number for each beginning of the tokens."""
    return list(accumulate(tokens, lambda read, id: crc32(id.to_bytes(4), read), initial=before))[
        1:
    ]


@contextmanager
def fake_sglang() -> Iterator[FakeSGLang]:
    with running(FakeSGLang()) as server:
        yield server


class _Handler(JsonHandler):
    server: FakeSGLang
    protocol_version = "HTTP/1.1"
    # An answer in one packet: the kernel holds a second one back.
    wbufsize = -1

    def do_GET(self) -> None:
        self._answer(self.server.info if self.path == "/server_info" else None)

    def do_POST(self) -> None:
        fake = self.server
        length = int(self.headers["Content-Length"] or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        if self.path.startswith("/flush_cache"):
            if fake.may_flush:
                with fake.lock:
                    fake.flushes += 1
                    fake.prefixes.clear()
            self._answer({} if fake.may_flush else None)
        elif self.path == "/v1/tokenize":
            ids = [[FIRST_ID + crc32(text.encode()) % IDS] for text in body["prompt"]]
            self._answer({"tokens": ids} if fake.has_tokenizer else None)
        else:
            refuses = fake.refuses_from is not None and len(fake.requests) >= fake.refuses_from
            self._answer(None if refuses else fake.generate(body))

    def _answer(self, content: object) -> None:
        fake = self.server
        allowed = fake.key is None or self.headers["Authorization"] == f"Bearer {fake.key}"
        self.answer(401 if not allowed else 400 if content is None else 200, content)
