"""What can be wrong with a config the cost model is asked to price."""

from __future__ import annotations


class UnsupportedModelError(ValueError):
    """The cost model cannot price this model.

    A caller that must go on regardless counts tokens instead
    (``sglang_marconi.cost.token_length_cost``).
    """


class NoFormulaError(UnsupportedModelError):
    """The model is of a kind that the cost model does not have."""


class UnknownModelError(NoFormulaError):
    """No family is registered for this ``model_type``."""

    def __init__(self, model_type: str) -> None:
        super().__init__(f"the cost model knows no model type {model_type!r}")
        self.model_type = model_type


class UnknownLayerError(NoFormulaError):
    """A known family has a layer that no formula covers."""

    def __init__(self, layer_type: str, model_type: str) -> None:
        super().__init__(
            f"the cost model has no formula for layer type {layer_type!r} of model type "
            f"{model_type!r}"
        )
        self.layer_type = layer_type
        self.model_type = model_type


class ConfigFieldError(UnsupportedModelError):
    """A field that a formula needs is missing from the config, or is not what it should be."""


class ShardingError(UnsupportedModelError):
    """The model's heads or channels cannot be split over this many tensor-parallel ranks."""
