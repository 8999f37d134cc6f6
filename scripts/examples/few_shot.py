"""Many questions behind the same worked examples, over the OpenAI completions API.

    make serve
    python scripts/examples/few_shot.py [--url http://127.0.0.1:30000]

Nobody says which part of the prompt is shared. The second question shows where the prompts part;
the pass over it leaves the state there, so from the third one on the examples are reused.
"""

from __future__ import annotations

from openai import OpenAI
from reuse import report_usage, server_url

EXAMPLES = "".join(
    f"Review: The {thing} was {quality}.\nMood: {mood}\n\n"
    for thing in ("room", "food", "view", "bed", "staff")
    for quality, mood in (("lovely", "good"), ("dreadful", "bad"), ("as expected", "neither"))
)
REVIEWS = (
    "Breakfast was cold.",
    "Quiet at night, and clean.",
    "We would come again!",
    "Far too expensive.",
    "Nothing to complain about.",
)


def main() -> None:
    """Ask for the mood of each review."""
    client = OpenAI(base_url=f"{server_url(__doc__)}/v1", api_key="none")
    for number, review in enumerate(REVIEWS, 1):
        answer = client.completions.create(
            model="default",
            prompt=f"{EXAMPLES}Review: {review}\nMood:",
            max_tokens=3,
            temperature=0,
        )
        report_usage(f"question {number}", answer.usage)


if __name__ == "__main__":
    main()
