"""Agents that use a tool, over the OpenAI API: the prompt grows by each call and its result.

    make serve
    python scripts/examples/agent.py [--url http://127.0.0.1:30000]

Each step of an agent resumes where its last one ended. The agents share their instructions; the
second one shows where they part, and from the third one on they are reused from the first step.

A model that calls tools needs SGLang's ``--tool-call-parser``. Where the model calls none, as the
small one of ``make serve``, the call that an agent would make is made for it.
"""

from __future__ import annotations

import json

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from reuse import report_usage, server_url

INSTRUCTIONS = "You look up flights and answer with the cheapest. Call the tool, then say it. " * 8
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "flights",
        "description": "Flights from the capital to a city, with fares.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "day": {"type": "string"}},
            "required": ["city", "day"],
        },
    },
}
CITIES = ("Oslo", "Porto", "Riga")
DAYS = ("Monday", "Tuesday", "Wednesday")


def flights(city: str, day: str) -> str:
    """The tool: made-up flights, the same ones for the same arguments."""
    fares = [50 + 7 * hour + 3 * len(city) + len(day) for hour in (6, 12, 19)]
    return json.dumps([{"city": city, "day": day, "fare": fare} for fare in fares])


def run_agent(client: OpenAI, city: str) -> None:
    """A step for each day, then the answer."""
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": INSTRUCTIONS},
        {"role": "user", "content": f"What is the cheapest way to {city} this week?"},
    ]
    for step, day in enumerate([*DAYS, None], 1):
        answer = client.chat.completions.create(
            model="default", messages=messages, tools=[TOOL], max_tokens=32, temperature=0
        )
        report_usage(f"{city}, step {step}", answer.usage)
        said = answer.choices[0].message
        if said.tool_calls:
            messages.append(
                {
                    "role": "assistant",
                    "content": said.content or "",
                    "tool_calls": [
                        {
                            "id": call.id,
                            "type": "function",
                            "function": {
                                "name": call.function.name,
                                "arguments": call.function.arguments,
                            },
                        }
                        for call in said.tool_calls
                        if call.type == "function"
                    ],
                }
            )
            for call in said.tool_calls:
                if call.type == "function":
                    result = flights(**json.loads(call.function.arguments))
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        elif day is not None:
            messages.append({"role": "assistant", "content": said.content or ""})
            messages.append({"role": "user", "content": f"The tool says: {flights(city, day)}"})


def main() -> None:
    """Three agents, one after the other."""
    client = OpenAI(base_url=f"{server_url(__doc__)}/v1", api_key="none")
    for city in CITIES:
        run_agent(client, city)


if __name__ == "__main__":
    main()
