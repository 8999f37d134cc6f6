"""The model of a simulation, by name or by config."""

from __future__ import annotations

from pathlib import Path

import msgspec

from sglang_marconi.cost import ModelCost, from_config, preset, preset_names


class ModelSpecError(ValueError):
    """A model that is neither a preset nor a readable config."""


def load_cost(spec: str) -> ModelCost:
    """The cost of a model: a preset's name, a Hugging Face ``config.json``, or its directory.

    Raises:
        ModelSpecError: there is no such thing, or it is not a JSON object.
        UnsupportedModelError: the cost model has no formula for it.
    """
    if spec in preset_names():
        return preset(spec)
    path = Path(spec)
    if path.is_dir():
        path /= "config.json"
    try:
        config = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except OSError as error:
        presets = ", ".join(preset_names())
        raise ModelSpecError(
            f"model {spec!r} is no config ({error.strerror}) and no preset; presets: {presets}"
        ) from error
    except msgspec.DecodeError as error:
        raise ModelSpecError(f"{path} is not a config: {error}") from error
    return from_config(config)
