"""Qwen4-Exp's per-layer embeddings of n-grams, and the convolutions over them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sglang_marconi.forward.layers import EMBEDDINGS, NGRAMS
from sglang_marconi.forward.plan import current
from sglang_marconi.forward.windows import windows_at


def take_embedded(layer: Any, x: Tensor, _forward_batch: Any, batch: Any) -> None:
    """Before ``Qwen4ExpPLELayer._short_conv``, once in each layer that has one.

    ``batch``, SGLang's ``_PLEBatch``, may have more rows than the plan, of padding, behind it.
    """
    plan = current()
    if plan is None or not plan.covers(len(x)):
        return
    states = _request_pool().short_conv_layer_cache(layer.layer_id)
    slots = batch.state_indices
    taken = windows_at(plan, x.__getitem__, lambda rows: states[slots[rows]])
    plan.put(EMBEDDINGS, layer.layer_id, taken, states)


def take_ngrams(batch: Any, forward_batch: Any) -> None:
    """Before ``_commit_ple_batch``, once in a pass.

    ``batch.ngram_context`` is ``[rows, width + row_width]``: the tokens that each row goes on from,
    then its own, then padding.
    """
    plan = current()
    if plan is None or batch is None or batch.ngram_context is None:
        return
    if not plan.covers(batch.processed_tokens):
        return
    context = batch.ngram_context
    width = context.shape[1] - batch.row_width
    columns = plan.integers(
        "columns of n-grams",
        lambda: [at for _, tokens in plan.places for at in range(tokens, tokens + width)],
        context,
    )
    rows = plan.rows_of_places(context)
    taken = context[rows[:, None], columns.view(-1, width)]
    plan.put(NGRAMS, None, taken, _request_pool().ngram_pool.context)


def _request_pool() -> Any:
    from sglang.srt.model_executor.forward_context import get_req_to_token_pool

    return get_req_to_token_pool()
