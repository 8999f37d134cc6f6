"""FLOPs to prefill a prefix, and bytes of its recurrent state and KV, from a model's config.

Pure Python: runs in the server, in the simulator and on the command line, without torch,
without SGLang and without loading a model.
"""

from sglang_marconi.cost.build import from_config
from sglang_marconi.cost.encoding import ENCODINGS
from sglang_marconi.cost.errors import (
    ConfigFieldError,
    NoFormulaError,
    ShardingError,
    UnknownLayerError,
    UnknownModelError,
    UnsupportedModelError,
)
from sglang_marconi.cost.layer import LayerCost
from sglang_marconi.cost.model import ModelCost, WindowCost, token_length_cost
from sglang_marconi.cost.paper import paper_cost
from sglang_marconi.cost.presets import preset, preset_config, preset_names

__all__ = [
    "ENCODINGS",
    "ConfigFieldError",
    "LayerCost",
    "ModelCost",
    "NoFormulaError",
    "ShardingError",
    "UnknownLayerError",
    "UnknownModelError",
    "UnsupportedModelError",
    "WindowCost",
    "from_config",
    "paper_cost",
    "preset",
    "preset_config",
    "preset_names",
    "token_length_cost",
]
