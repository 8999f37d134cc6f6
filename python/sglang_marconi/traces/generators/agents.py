"""Sessions of an agent that works with tools."""

from dataclasses import dataclass, field

from sglang_marconi.traces.generators.distributions import Distribution, LogNormal
from sglang_marconi.traces.generators.shape import Shape


@dataclass(frozen=True, kw_only=True)
class SweBench(Shape):
    """An agent that repairs software, as on SWE-bench: many turns, long tool outputs.

    From the Marconi paper's artifact (utils/generate_trace.py): a prompt has the first message,
    which states the task, all replies, and of the tool outputs the newest and the five before
    it; 5 to 10 seconds between turns; at most 32,768 tokens in a prompt and 51 turns. The
    artifact gives no mean lengths; the paper's figure 6 is said to show prompts of hundreds to
    tens of thousands of tokens (not verified).

    Assumptions, not verified: 2,000 tokens of system prompt; as means, 20 turns, 800 tokens in a
    task, 800 in a tool output, 150 in a reply; the distributions' forms and sigmas, that of the
    tool outputs the largest, as some are a line and some a file. The limit of 51 turns is left
    out: few sessions reach it.
    """

    turns: Distribution = field(default=LogNormal(20.0, 0.5))
    first_message: Distribution = field(default=LogNormal(800.0, 0.8))
    message: Distribution = field(default=LogNormal(800.0, 1.2))
    reply: Distribution = field(default=LogNormal(150.0, 0.8))
    system_tokens: int = 2_000
    messages_kept: int | None = 6
    mean_turn_gap: float = 7.5
