"""What a model's checkpoints and KV take, what fits a budget, and what a hit saves."""

from sglang_marconi.explain.facts import (
    Explanation,
    Fit,
    Hit,
    NothingToCheckpointError,
    explain,
)

__all__ = ["Explanation", "Fit", "Hit", "NothingToCheckpointError", "explain"]
