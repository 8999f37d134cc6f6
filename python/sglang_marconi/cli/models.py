"""The model that a command is asked about."""

from __future__ import annotations

from sglang_marconi.cost import ModelCost, NoFormulaError
from sglang_marconi.cost.load import ModelSpecError, load_cost
from sglang_marconi.settings.schema import COUNT_TOKENS


def load_model(spec: str, *, tp_size: int = 1) -> ModelCost:
    """`load_cost`, with what to do where there is no formula.

    Raises:
        ModelSpecError: there is no such thing, or no formula for it.
        UnsupportedModelError: the formula lacks a field, or the ranks do not divide the model.
    """
    try:
        return load_cost(spec, tp_size=tp_size)
    except NoFormulaError as error:
        raise ModelSpecError(
            f"{error}. Name a preset with layers like its own instead. A server of this model "
            f"counts a hit by its length, with {COUNT_TOKENS}"
        ) from error
