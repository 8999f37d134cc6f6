"""Questions about documents in batches, over SGLang's own ``/generate``.

    make serve
    python scripts/examples/documents.py [--url http://127.0.0.1:30000]

Two ways to have a document's state kept:

- Just ask. The second question shows where the document ends, the third one reuses it. The first
  document below is asked that way.
- Send the document alone first and ask for one token: a request's last token is kept too, here
  the end of the document. All questions reuse it then, also those of one batch.
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from reuse import report, server_url

NOTICE = "Trains leave from platform two until the works on the bridge are done. " * 20
CONTRACT = "The tenant keeps the garden, the owner keeps the roof and the walls dry. " * 20
# They start with different tokens, so the prompts part where the document ends.
QUESTIONS = ("Until when?", "Who pays?", "Is the cellar mentioned?", "And the bridge?")


def generate(url: str, prompts: list[str], tokens: int) -> list[dict[str, Any]]:
    """One request with several prompts, which the server runs together where it can."""
    body = {
        "text": prompts,
        "sampling_params": {"temperature": 0, "max_new_tokens": tokens},
    }
    request = urllib.request.Request(
        f"{url}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        answers: list[dict[str, Any]] = json.load(response)
    return [answer["meta_info"] for answer in answers]


def main() -> None:
    """Ask about both documents."""
    url = server_url(__doc__)
    for number, question in enumerate(QUESTIONS, 1):
        (found,) = generate(url, [f"{NOTICE}\nQuestion: {question}\n"], tokens=8)
        report(f"notice, question {number}", found["cached_tokens"], found["prompt_tokens"])
    generate(url, [f"{CONTRACT}\n"], tokens=1)
    batch = [f"{CONTRACT}\nQuestion: {question}\n" for question in QUESTIONS]
    for number, found in enumerate(generate(url, batch, tokens=8), 1):
        report(f"contract, question {number}", found["cached_tokens"], found["prompt_tokens"])


if __name__ == "__main__":
    main()
