"""What a model's config says: its family, its layers, and whether they have formulas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from sglang_marconi import units
from sglang_marconi.cost import ShardingError, UnsupportedModelError, from_config
from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.families import layers_of
from sglang_marconi.cost.layer import LayerCost
from sglang_marconi.cost.mamba import Mamba1
from sglang_marconi.cost.sparse import BlockIndexer, LightningIndexer, PooledKeys
from sglang_marconi.doctor.findings import Finding
from sglang_marconi.settings.schema import COUNT_TOKENS, Settings

_EXAMPLE_TOKENS = 8192
# What neither SGLang nor our CPU runtime has in torch: Mamba's first version, and what chooses the
# keys of sparse attention.
_NOT_ON_CPU = (Mamba1, LightningIndexer, BlockIndexer, PooledKeys)
_USE_ACCELERATOR = "use an accelerator"


def model_findings(
    config: object, settings: Settings, *, tp_size: int = 1, on_cpu: bool = False
) -> Iterator[Finding]:
    """The model's layers, and what a hit on it saves.

    ``config`` is a Hugging Face config, read or loaded. ``on_cpu``: the server runs on the
    CPU runtime, which lacks some kinds of layers.
    """
    view = ConfigView(config)
    try:
        layers = layers_of(view)
        cost = from_config(config, tp_size=tp_size)
    except UnsupportedModelError as error:
        yield _without_formula(view.model_type, on_cpu=on_cpu)
        if settings.cost == "tokens":
            yield Finding("formula", "warning", f"{error}; its length in tokens is counted")
        else:
            yield Finding("formula", "problem", str(error), _remedy(error))
        return
    yield _layers(view.model_type, layers, on_cpu=on_cpu)
    flops = units.flops(cost.prefill_flops(0, _EXAMPLE_TOKENS))
    yield Finding(
        "formula",
        "ok",
        f"a hit on {units.count(_EXAMPLE_TOKENS)} tokens saves {flops}; a checkpoint takes "
        f"{units.byte_size(cost.state_bytes)}, the KV of a token "
        f"{units.byte_size(cost.kv_bytes_per_token)}",
    )


def _remedy(error: UnsupportedModelError) -> str:
    if isinstance(error, ShardingError):
        return "divide the model over a number of ranks that divides its heads"
    return f"pass {COUNT_TOKENS}: a hit then counts by its length"


def _without_formula(family: str, *, on_cpu: bool) -> Finding:
    found = family or "no model_type in its config"
    if not on_cpu:
        return Finding("model", "ok", found)
    found += "; that the CPU runtime has its layers is not known"
    return Finding("model", "problem", found, _USE_ACCELERATOR)


def _layers(family: str, layers: Sequence[LayerCost], *, on_cpu: bool) -> Finding:
    kinds = Counter(type(layer).__name__ for layer in layers)
    found = f"{family}: " + ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    recurrent = [layer for layer in layers if any(layer.state(1))]
    if not recurrent:
        return Finding(
            "model",
            "problem",
            f"{found}; no recurrent layers",
            "omit --radix-cache-backend: SGLang's own cache serves attention-only models",
        )
    missing = {type(layer).__name__: None for layer in layers if isinstance(layer, _NOT_ON_CPU)}
    if on_cpu and missing:
        return Finding(
            "model",
            "problem",
            f"{found}; the CPU runtime has no {' or '.join(missing)}",
            _USE_ACCELERATOR,
        )
    attention = any(layer.keys(1).kv_elements for layer in layers)
    return Finding("model", "ok", f"{found}; {'hybrid' if attention else 'recurrent only'}")
