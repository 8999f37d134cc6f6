"""The model of a simulation, by name or by config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from sglang_marconi.cost import ModelCost, from_config, preset, preset_config, preset_names
from sglang_marconi.cost.presets import PAPER_7B


class ModelSpecError(ValueError):
    """A model that is neither a preset nor a readable config."""


def load_cost(spec: str, *, tp_size: int = 1) -> ModelCost:
    """The cost of a model: a preset's name, a Hugging Face ``config.json``, or its directory.

    It is that of one of ``tp_size`` tensor-parallel ranks.

    Raises:
        ModelSpecError: there is no such thing, or it is not a JSON object.
        UnsupportedModelError: the cost model has no formula for it.
    """
    if spec == PAPER_7B:
        if tp_size != 1:
            raise ModelSpecError(f"{PAPER_7B} is accounted on one rank, not on {tp_size}")
        return preset(spec)
    return from_config(load_config(spec), tp_size=tp_size)


def load_config(spec: str) -> Mapping[str, object]:
    """The config behind a preset's name, of a ``config.json``, or of its directory.

    Raises:
        ModelSpecError: there is no such thing, or it is not a JSON object.
    """
    if spec in preset_names():
        return preset_config(spec)
    path = Path(spec)
    if path.is_dir():
        path /= "config.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except OSError as error:
        presets = ", ".join(preset_names())
        raise ModelSpecError(
            f"model {spec!r} is no config ({error.strerror}) and no preset; presets: {presets}"
        ) from error
    except msgspec.DecodeError as error:
        raise ModelSpecError(f"{path} is not a config: {error}") from error
