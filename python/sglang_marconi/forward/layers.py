"""Which layer is being computed, and what a state consists of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sglang_marconi.forward.plan import Part, current

RECURRENT = "recurrent state"
"""The part of a state that a recurrence has."""

NGRAMS = "tokens of n-grams"
"""The last tokens, of the whole model, that Qwen4-Exp looks n-grams up by."""

EMBEDDINGS = "window of embeddings"
"""The window of the convolution in a per-layer embedding of Qwen4-Exp."""


def window(number: int = 0) -> str:
    """The name of a layer's window, of which it may have several."""
    return f"window {number}"


def note_layer(layer: Any, _pool: Any, layer_id: int) -> None:
    """After ``HybridReqToTokenPool.mamba2_layer_cache``, which every layer calls for its states."""
    plan = current()
    if plan is not None:
        plan.at_layer(layer_id, layer)


def parts(request_pool: Any) -> Iterator[Part]:
    """All that a state of a ``HybridReqToTokenPool`` consists of."""
    cache = request_pool.mamba_pool.mamba_cache
    for layer_id in request_pool.mamba_map:
        for number, windows in enumerate(cache.conv):
            if windows.numel():
                yield window(number), layer_id
        if cache.temporal.numel():
            yield RECURRENT, layer_id
    if request_pool.short_conv_pool.enabled:
        for layer_id in request_pool.short_conv_pool.layer_map:
            yield EMBEDDINGS, layer_id
    if request_pool.ngram_pool.enabled:
        yield NGRAMS, None
