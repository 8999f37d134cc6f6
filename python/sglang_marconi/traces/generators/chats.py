"""Chats of people with a model, short and long ones."""

from dataclasses import dataclass, field

from sglang_marconi.traces.generators.distributions import Distribution, Geometric, LogNormal
from sglang_marconi.traces.generators.shape import Shape


@dataclass(frozen=True, kw_only=True)
class Lmsys(Shape):
    """Short chats, as in LMSYS-Chat-1M.

    Published (arXiv 2309.11998, table 1), as means: 2.0 turns in a conversation, 69.5 tokens in
    a prompt, here a message, 214.5 in a response.

    Assumptions, not verified: the distributions' forms; sigma 1.2 and 1.0, for long tails; 35
    seconds between turns, which is what a mean message takes to type at 90 words a minute (the
    rate in the Marconi paper's artifact) and 0.75 words a token. The artifact replays
    conversations of 10 turns and more only, so its sessions are longer than these.
    """

    turns: Distribution = field(default=Geometric(2.0))
    first_message: Distribution = field(default=LogNormal(69.5, 1.2))
    message: Distribution = field(default=LogNormal(69.5, 1.2))
    reply: Distribution = field(default=LogNormal(214.5, 1.0))
    mean_turn_gap: float = 35.0


@dataclass(frozen=True, kw_only=True)
class ShareGpt(Shape):
    """Longer chats, as in ShareGPT.

    Published (arXiv 2309.06180, figure 11; not verified), as means: 161.31 tokens in an input,
    here a message, 337.99 in an output.

    Assumptions, not verified: 3.5 turns on average; the distributions' forms; sigma 1.2 and
    1.0, for long tails; 80 seconds between turns, by the same rule as in `Lmsys`. The Marconi
    paper's artifact replays conversations of 10 turns and more only, here, too.
    """

    turns: Distribution = field(default=Geometric(3.5))
    first_message: Distribution = field(default=LogNormal(161.31, 1.2))
    message: Distribution = field(default=LogNormal(161.31, 1.2))
    reply: Distribution = field(default=LogNormal(337.99, 1.0))
    mean_turn_gap: float = 80.0
