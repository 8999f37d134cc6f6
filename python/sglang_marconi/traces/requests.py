"""A request stream: the turns of many sessions, in order of arrival.

A chat request carries only what its turn adds: its prompt is everything earlier in its session
(prompts and replies), then what it adds. A request of a trace carries its whole prompt.
"""

from typing import Literal, NamedTuple

from sglang_marconi.traces.tokens import Tokens


class Message(NamedTuple):
    """One chat message, as the OpenAI API names its fields."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class ChatRequest(NamedTuple):
    """A turn given as chat messages.

    `arrival` is in seconds since the start of the stream; `turn` counts from 0.
    """

    session_id: str
    turn: int
    arrival: float
    new_messages: tuple[Message, ...]
    max_output_tokens: int


class TraceRequest(NamedTuple):
    """A request of a trace with its whole prompt, for the simulator.

    `arrival` is in seconds since the start of the trace; `turn` counts from 0. `continues` is
    how many tokens of the prompt are exactly the session's prompt and reply before this one, 0
    where it does not continue it: against a server, those are the ones it really replied.
    """

    session_id: str
    turn: int
    arrival: float
    prompt: Tokens
    reply: Tokens
    continues: int = 0


Request = ChatRequest | TraceRequest
