"""What a server reported and a client measured for one request."""

from typing import NamedTuple


class Record(NamedTuple):
    """One finished request. Times are in seconds; `sent` counts from the start of the run."""

    session_id: str
    turn: int
    prompt_tokens: int
    cached_tokens: int
    """Tokens of the prompt whose prefill was skipped, as the server reports them."""
    output_tokens: int
    sent: float
    ttft: float
    """From sending the request to the first token of the reply."""
    total: float
    """From sending the request to the end of the reply."""
