"""From a model's config to its cost."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.encoding import RecurrentPart
from sglang_marconi.cost.families import layers_of
from sglang_marconi.cost.layer import LayerCost
from sglang_marconi.cost.model import ModelCost, WindowCost, pass_flops_of

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_DEFAULT_STATE_DTYPE = "float32"
_TOKEN_ID_BYTES = 8


def from_config(
    config: object,
    *,
    tp_size: int = 1,
    kv_dtype_bytes: int = 2,
    state_dtype_bytes: int | None = None,
    conv_dtype_bytes: int = 2,
) -> ModelCost:
    """The cost of a model on one of ``tp_size`` tensor-parallel ranks.

    ``config`` is a Hugging Face config, as a mapping (``config.json`` as read) or as an
    object with the same fields. The bytes per element default to what SGLang allocates:
    16-bit KV and convolution windows, recurrent states in the config's
    ``mamba_ssm_dtype`` or, without one, 32 bits.

    Raises:
        UnknownModelError: no family for this ``model_type``.
        UnknownLayerError: a layer of a type that has no formula.
        ConfigFieldError: a field that a formula needs is missing or malformed.
        ShardingError: heads or channels do not divide over ``tp_size`` ranks.
    """
    view = ConfigView(config)
    if state_dtype_bytes is None:
        state_dtype_bytes = _DTYPE_BYTES.get(
            str(view.get("mamba_ssm_dtype")), _DTYPE_BYTES[_DEFAULT_STATE_DTYPE]
        )
    return sum_layers(
        layers_of(view),
        tp_size=tp_size,
        kv_dtype_bytes=kv_dtype_bytes,
        state_dtype_bytes=state_dtype_bytes,
        conv_dtype_bytes=conv_dtype_bytes,
        embedding_parameters=_embedding_parameters(view),
    )


def sum_layers(
    layers: Sequence[LayerCost],
    *,
    tp_size: int,
    kv_dtype_bytes: int,
    state_dtype_bytes: int,
    conv_dtype_bytes: int,
    embedding_parameters: int = 0,
) -> ModelCost:
    """Add up layers into the coefficients of a `ModelCost`.

    A causal prefill of n tokens attends to n * (n + 1) / 2 keys, so that half of a
    layer's FLOPs per key goes to the linear and half to the quadratic coefficient.
    """
    per_token = per_key = weights = 0.0
    kv_elements = kv_bytes = recurrent = scales = conv = token_ids = 0
    windows: dict[int, tuple[float, int]] = {}
    for layer in layers:
        weights += layer.weights(tp_size)
        per_token += 2.0 * layer.weights(tp_size) + layer.scan_flops(tp_size)
        keys = layer.keys(tp_size)
        kept = keys.window is None or keys.keeps_all
        kv_elements += keys.kv_elements if kept else 0
        kv_bytes += keys.other_bytes
        if keys.window is None:
            per_key += keys.flops
        else:
            flops, elements = windows.get(keys.window, (0.0, 0))
            bounded = 0 if kept else keys.kv_elements
            windows[keys.window] = (flops + keys.flops, elements + bounded)
        state = layer.state(tp_size)
        recurrent += state.recurrent
        scales += state.scales
        conv += state.conv
        token_ids += state.token_ids
    return ModelCost(
        flops_per_token=per_token + per_key / 2,
        flops_per_token_squared=per_key / 2,
        state_bytes=(
            recurrent * state_dtype_bytes + conv * conv_dtype_bytes + token_ids * _TOKEN_ID_BYTES
        ),
        kv_bytes_per_token=kv_elements * kv_dtype_bytes + kv_bytes,
        windows=tuple(
            WindowCost(window, flops, elements * kv_dtype_bytes)
            for window, (flops, elements) in sorted(windows.items())
        ),
        parameters=embedding_parameters + sum(layer.total_weights() for layer in layers),
        active_parameters=embedding_parameters + sum(layer.weights(1) for layer in layers),
        recurrent=RecurrentPart(recurrent, state_dtype_bytes, scales),
        pass_flops=pass_flops_of(weights),
    )


def _embedding_parameters(view: ConfigView) -> int:
    # LFM2's config says tie_embedding.
    tied = view.get("tie_word_embeddings", "tie_embedding")
    table = view.integer("vocab_size", default=0) * view.integer("hidden_size")
    return table if tied else 2 * table
