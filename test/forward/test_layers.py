"""What a state consists of, and what of it a pass has left, in SGLang's own pools."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sglang_marconi.forward.layers import EMBEDDINGS, NGRAMS, RECURRENT, note_layer, parts, window
from sglang_marconi.forward.plan import Part, PassPlan, Place, Row, carried_out
from support.slot_models import LFM2, PLE, ZAYA, one_rank, qwen4_exp, request_pool

SLOTS = 4

MODELS: dict[str, tuple[Any, set[Part]]] = {
    "qwen4-exp": (
        qwen4_exp,
        {(part, layer) for layer in range(3) for part in (window(), RECURRENT)},
    ),
    "qwen4-exp, PLE": (
        lambda: qwen4_exp(**PLE),
        {(part, layer) for layer in range(3) for part in (window(), RECURRENT)}
        | {(EMBEDDINGS, 1), (EMBEDDINGS, 3), (NGRAMS, None)},
    ),
    "zaya": (lambda: ZAYA, {(window(number), layer) for layer in (0, 2) for number in (0, 1)}),
    "lfm2": (lambda: LFM2, {(window(), 0), (window(), 2)}),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    one_rank(monkeypatch)


def pool_of(model: str) -> tuple[Any, set[Part]]:
    config, wanted = MODELS[model]
    return request_pool(config(), SLOTS), wanted


def tensor_of(pool: Any, part: str, layer_id: int | None) -> torch.Tensor:
    """``[slots, ...]``, found as SGLang's layers find it."""
    found: torch.Tensor
    if part == NGRAMS:
        found = pool.ngram_pool.context
    elif part == EMBEDDINGS:
        found = pool.short_conv_layer_cache(layer_id)
    else:
        layer = pool.mamba2_layer_cache(layer_id)
        found = layer.temporal if part == RECURRENT else layer.conv[int(part[-1])]
    return found


def planned() -> PassPlan:
    return PassPlan(
        [Row(3, True), Row(9, False)],
        [Place(0, 2), Place(1, 4)],
        [torch.tensor([2]), torch.tensor([4])],
    )


@pytest.mark.parametrize("model", MODELS)
def test_parts_are_all_that_a_slot_has(model: str) -> None:
    pool, wanted = pool_of(model)
    found = list(parts(pool))
    assert len(found) == len(set(found))
    assert set(found) == wanted
    # What SGLang takes along when a slot goes to another place.
    assert sum(tensor_of(pool, *part)[0].nbytes for part in found) == sum(
        tensor[0].nbytes for _, tensor, *_ in pool.mamba_pool._iter_transfer_state_entries()
    )


@pytest.mark.parametrize("model", MODELS)
def test_a_state_without_one_of_its_parts_is_not_whole(model: str) -> None:
    pool, wanted = pool_of(model)
    for left_out in [None, *wanted]:
        plan = planned()
        for part in wanted - {left_out}:
            into = tensor_of(pool, *part)
            plan.put(*part, torch.ones(2, *into.shape[1:]), into)
        assert plan.missing(parts(pool)) == ([] if left_out is None else [left_out])
        assert {part for part in wanted if plan.lacks(*part)} == {left_out} - {None}


@pytest.mark.parametrize("model", MODELS)
def test_what_is_put_is_in_its_slots_alone(model: str) -> None:
    pool, wanted = pool_of(model)
    plan = planned()
    for number, part in enumerate(sorted(wanted, key=str)):
        into = tensor_of(pool, *part)
        before = into.clone()
        values = torch.full((2, *into.shape[1:]), number + 3)
        values[1] += 100
        plan.put(*part, values, into)
        assert (into[2] == number + 3).all()
        assert (into[4] == number + 103).all()
        assert torch.equal(into[[0, 1, 3]], before[[0, 1, 3]])


def test_the_layer_that_is_computed_is_the_pools() -> None:
    pool, _ = pool_of("qwen4-exp")
    plan = planned()
    for layer_id in (1, 0, 2):
        layer = pool.mamba2_layer_cache(layer_id)
        # Outside of a pass that has a plan.
        note_layer(layer, pool, layer_id)
        with carried_out(None):
            note_layer(layer, pool, layer_id)
    assert plan.layer_id is None
    with carried_out(plan):
        for layer_id in (1, 0, 2):
            note_layer(pool.mamba2_layer_cache(layer_id), pool, layer_id)
            assert plan.layer_id == layer_id
            plan.layer.temporal[3] = layer_id + 1
    assert [pool.mamba_pool.mamba_cache.temporal[at, 3].min() for at in range(3)] == [1, 2, 3]
