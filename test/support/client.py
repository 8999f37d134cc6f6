"""Talks to a server under test by token ids, through SGLang's native endpoint."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError


@dataclass(frozen=True)
class Reply:
    """One answer: the ids generated, their log probabilities, and the prompt tokens reused.

    ``seconds``: beside each id the most probable other one and its log probability, if asked for.
    """

    output_ids: list[int]
    logprobs: list[float]
    cached_tokens: int
    seconds: list[tuple[int, float]] = field(default_factory=list)


def post(
    url: str, path: str, body: dict[str, Any], timeout: float = 300.0, key: str | None = None
) -> Any:
    """POST ``body`` as JSON and return the answer, decoded where it is JSON."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        text = answer.read().decode()
    return json.loads(text) if text.startswith(("{", "[")) else text


def refused(url: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """The status and the answer to what cannot be served."""
    try:
        answer = post(url, path, body)
    except HTTPError as error:
        return error.code, json.loads(error.read())
    raise AssertionError(f"it was served: {answer}")


def _reply(answer: dict[str, Any]) -> Reply:
    meta = answer["meta_info"]
    logprobs = [entry[0] for entry in meta.get("output_token_logprobs") or []]
    tops = meta.get("output_top_logprobs") or []
    seconds = [
        next((other, score) for score, other, _ in top if other != token)
        for token, top in zip(answer["output_ids"], tops, strict=False)
    ]
    return Reply(answer["output_ids"], logprobs, meta["cached_tokens"], seconds)


def generate(
    url: str,
    prompt: Sequence[int],
    tokens: int,
    *,
    logprobs: bool = True,
    about: dict[str, Any] | None = None,
    **sampling: Any,
) -> Reply:
    """Greedy generation of exactly ``tokens`` tokens after ``prompt``."""
    return generate_batch(url, [prompt], tokens, logprobs=logprobs, about=about, **sampling)[0]


def generate_batch(
    url: str,
    prompts: Sequence[Sequence[int]],
    tokens: int | Sequence[int],
    *,
    logprobs: bool = True,
    seconds: bool = False,
    key: str | None = None,
    about: dict[str, Any] | None = None,
    **sampling: Any,
) -> list[Reply]:
    """Like ``generate`` for several prompts, sent as one request; ``tokens`` of all or of each.

    ``about``: what else the request says.
    """
    counts = [tokens] * len(prompts) if isinstance(tokens, int) else tokens
    answers = post(
        url,
        "/generate",
        {
            "input_ids": [list(prompt) for prompt in prompts],
            "sampling_params": [
                {"temperature": 0, "max_new_tokens": count, "ignore_eos": True, **sampling}
                for count in counts
            ],
            "return_logprob": logprobs,
            "top_logprobs_num": 2 * seconds,
            **(about or {}),
        },
        key=key,
    )
    return [_reply(answer) for answer in answers]


def flush(url: str) -> None:
    """Empty the server's cache."""
    post(url, "/flush_cache?timeout=30", {})
