"""Prompts of random token ids that share what a test wants them to share."""

from __future__ import annotations

import random

# Ids of ordinary tokens in the demo model's vocabulary; none is special.
LOWEST, HIGHEST = 300, 1000


def tokens(count: int, seed: int) -> list[int]:
    """``count`` ids, the same ones for the same seed."""
    chooser = random.Random(seed)
    return [chooser.randrange(LOWEST, HIGHEST) for _ in range(count)]
