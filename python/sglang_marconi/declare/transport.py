"""Token positions that a request declares, on their way to the scheduler.

They travel in ``custom_params`` of SGLang's sampling parameters, which go wherever a request goes.
"""

from __future__ import annotations

from typing import Any

PARAMETER = "marconi_checkpoints"
"""Their name among the custom parameters."""

WRITTEN = "written"
"""Among SGLang's details of what was cached: tokens up to the last state kept, but those read."""

MOST_POSITIONS = 16
"""Of one prompt."""


def checked(positions: object, prompt_tokens: int) -> list[int]:
    """Positions that may be declared for a prompt, in order.

    Raises:
        ValueError: they are not what is asked for; the message is for the client.
    """
    if not isinstance(positions, list) or not all(type(each) is int for each in positions):
        raise ValueError("checkpoints: a list of token positions is needed for each prompt")
    if len(positions) > MOST_POSITIONS:
        raise ValueError(f"checkpoints: at most {MOST_POSITIONS} positions, got {len(positions)}")
    wrong = [each for each in positions if not 0 < each < prompt_tokens]
    if wrong:
        raise ValueError(
            f"checkpoints: position {wrong[0]} is not inside the prompt of {prompt_tokens} tokens"
        )
    return sorted(set(positions))


def with_positions(sampling: dict[str, Any] | None, positions: object) -> dict[str, Any]:
    """Sampling parameters that carry these."""
    sampling = sampling or {}
    given = sampling.get("custom_params") or {}
    return {**sampling, "custom_params": {**given, PARAMETER: positions}}


def carried(custom_params: object) -> Any:
    """What the custom parameters carry; ``None`` for a request that declares nothing."""
    return custom_params.get(PARAMETER) if isinstance(custom_params, dict) else None
