"""A chat over the OpenAI API, streamed: each turn resumes where the last reply ended.

    make serve
    python scripts/examples/chat.py [--url http://127.0.0.1:30000]

The client sends the whole conversation each time, as chat clients do. The state after the last
token of each reply is kept, so that a turn computes the user's new message alone.
"""

from __future__ import annotations

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from reuse import report_usage, server_url

QUESTIONS = (
    "Which train goes to the coast in the morning?",
    "And is there one in the evening?",
    "Where do I change?",
    "How long is the wait there?",
)


def main() -> None:
    """Hold the conversation."""
    client = OpenAI(base_url=f"{server_url(__doc__)}/v1", api_key="none")
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You answer questions about trains in one sentence. " * 10}
    ]
    for turn, question in enumerate(QUESTIONS, 1):
        messages.append({"role": "user", "content": question})
        stream = client.chat.completions.create(
            model="default",
            messages=messages,
            max_tokens=24,
            temperature=0,
            stream=True,
            # Without it a stream says nothing about tokens.
            stream_options={"include_usage": True},
        )
        reply, usage = "", None
        for chunk in stream:
            reply += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        messages.append({"role": "assistant", "content": reply})
        report_usage(f"turn {turn}", usage)


if __name__ == "__main__":
    main()
