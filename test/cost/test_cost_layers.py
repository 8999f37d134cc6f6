"""Each layer's formula against torch's own count of a naive instance of that layer."""

from dataclasses import replace

import pytest
import torch
from sglang_marconi.cost import ShardingError
from sglang_marconi.cost.attention import Attention, LatentAttention
from sglang_marconi.cost.build import sum_layers
from sglang_marconi.cost.convolved import (
    CompressedConvolutionalAttention,
    RelativeAttention,
    StreamConvolutions,
)
from sglang_marconi.cost.delta import GatedDeltaNet, JetBlock, KimiDeltaAttention
from sglang_marconi.cost.feedforward import MLP, MixtureOfExperts
from sglang_marconi.cost.layer import LayerCost
from sglang_marconi.cost.linear import LightningAttention, ShortConvolution
from sglang_marconi.cost.mamba import Mamba1, Mamba2
from sglang_marconi.cost.model import ModelCost
from sglang_marconi.cost.sparse import BlockIndexer, LightningIndexer, PooledKeys
from sglang_marconi.cost.streams import (
    GatedResidual,
    HyperConnection,
    NGramContext,
    NGramEmbedding,
)
from support.counted import counted_flops as torch_count
from support.naive_newer_layers import RUN

LAYERS = [
    Attention(hidden=15, heads=3, kv_heads=3, head_dim=7),
    Attention(hidden=15, heads=6, kv_heads=2, head_dim=5, gated=True),
    Attention(hidden=15, heads=3, kv_heads=1, head_dim=7, window=4),
    LatentAttention(hidden=15, heads=3, q_rank=None, kv_rank=9, nope_dim=5, rope_dim=3, v_dim=7),
    LatentAttention(
        hidden=15, heads=3, q_rank=11, kv_rank=9, nope_dim=5, rope_dim=3, v_dim=7, gate_dim=3
    ),
    LatentAttention(
        hidden=15, heads=3, q_rank=11, kv_rank=9, nope_dim=5, rope_dim=3, v_dim=7, selected=4
    ),
    Attention(hidden=15, heads=6, kv_heads=2, head_dim=5, gated=True, selected=4),
    MLP(hidden=15, intermediate=41),
    MLP(hidden=15, intermediate=41, gated=False),
    MixtureOfExperts(hidden=15, intermediate=13, experts=7, active=3),
    MixtureOfExperts(
        hidden=15,
        intermediate=13,
        experts=7,
        active=3,
        shared_intermediate=17,
        gated=False,
        latent=5,
    ),
    MixtureOfExperts(hidden=15, intermediate=13, experts=7, active=3, router=15 * 9),
    Mamba1(hidden=15, inner=21, state_dim=5, conv_kernel=3, dt_rank=4),
    Mamba2(hidden=15, heads=6, head_dim=7, groups=2, state_dim=5, conv_kernel=4),
    GatedDeltaNet(hidden=15, key_heads=2, value_heads=6, key_dim=5, value_dim=7, conv_kernel=4),
    KimiDeltaAttention(hidden=15, heads=3, head_dim=7, conv_kernel=3),
    KimiDeltaAttention(hidden=15, heads=3, head_dim=7, conv_kernel=3, full_rank_gate=True),
    KimiDeltaAttention(
        hidden=15, heads=3, head_dim=7, conv_kernel=3, full_rank_decay=True, full_rank_gate=True
    ),
    JetBlock(hidden=15, heads=2, key_dim=5, value_dim=8, conv_kernel=3, generator_reduction=4),
    LightningAttention(hidden=15, heads=3, head_dim=7),
    LightningAttention(hidden=15, heads=3, head_dim=7, gated=False),
    ShortConvolution(hidden=15, conv_kernel=3),
    LightningIndexer(hidden=15, q_rank=11, heads=3, head_dim=5),
    BlockIndexer(hidden=15, heads=3, head_dim=5, pool=1),
    HyperConnection(hidden=15, streams=3),
    GatedResidual(hidden=15, streams=3, rank=4),
    GatedResidual(hidden=15, streams=3, rank=4, writes=False),
    NGramEmbedding(hidden=15, streams=3, embedding=8, conv_kernel=3, ngram=2, table=1000),
    NGramContext(ngram=3),
    CompressedConvolutionalAttention(
        hidden=15, heads=4, kv_heads=2, head_dim=5, first_kernel=2, second_kernel=3
    ),
    RelativeAttention(hidden=15, heads=4, kv_heads=2, head_dim=5, relative=3, extent=11),
    RelativeAttention(hidden=15, heads=4, kv_heads=2, head_dim=5, relative=3, extent=4, window=4),
    StreamConvolutions(
        hidden=15, kv_heads=2, head_dim=5, unused_heads=3, unused_dim=4, conv_kernel=3
    ),
]
# A token scores the pools that are full, and is counted as if it scored a part of the next.
POOLED = [
    LightningIndexer(hidden=15, q_rank=11, heads=3, head_dim=5, pool=4),
    BlockIndexer(hidden=15, heads=3, head_dim=5, pool=4),
    PooledKeys(heads=6, kv_heads=2, head_dim=5, pool=4),
]


def cost_of(layer: LayerCost, tp: int = 1) -> ModelCost:
    """The layer alone, with bytes such that they count elements."""
    return sum_layers(
        [layer], tp_size=tp, kv_dtype_bytes=1, state_dtype_bytes=1, conv_dtype_bytes=1
    )


def counted_flops(layer: LayerCost, start: int, end: int) -> int:
    x = torch.randn(end - start, 15)
    return torch_count(lambda: RUN[type(layer)](layer, x, start))


@pytest.mark.parametrize(("start", "end"), [(0, 11), (3, 10)])
@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_prefill_flops_are_those_torch_counts(layer: LayerCost, start: int, end: int) -> None:
    assert cost_of(layer).prefill_flops(start, end) == counted_flops(layer, start, end)


@pytest.mark.parametrize(("start", "end"), [(0, 37), (13, 40)])
@pytest.mark.parametrize("layer", POOLED, ids=repr)
def test_pooled_keys_are_counted_to_within_a_pool(layer: LayerCost, start: int, end: int) -> None:
    over = cost_of(layer).prefill_flops(start, end) - counted_flops(layer, start, end)
    kinds = 2 if isinstance(layer, PooledKeys) else 1
    heads, head_dim = layer.heads, layer.head_dim  # type: ignore[attr-defined]
    assert 0 < over < kinds * (end - start) * 2 * heads * (head_dim + 1)


def test_every_kind_of_layer_is_counted() -> None:
    assert {type(layer) for layer in LAYERS + POOLED} == set(RUN)


def test_an_expert_counts_only_where_it_is_chosen() -> None:
    layer = MixtureOfExperts(hidden=15, intermediate=13, experts=7, active=3)
    router, expert = 15 * 7, 3 * 15 * 13
    assert layer.weights(1) == router + 3 * expert
    assert layer.total_weights() == router + 7 * expert


EVEN = [
    Attention(hidden=16, heads=8, kv_heads=8, head_dim=4, gated=True),
    MLP(hidden=16, intermediate=32),
    Mamba1(hidden=16, inner=32, state_dim=4, conv_kernel=4, dt_rank=4),
    Mamba2(hidden=16, heads=8, head_dim=4, groups=4, state_dim=8, conv_kernel=4),
    GatedDeltaNet(hidden=16, key_heads=4, value_heads=8, key_dim=4, value_dim=8, conv_kernel=4),
    LightningAttention(hidden=16, heads=8, head_dim=4),
    ShortConvolution(hidden=16, conv_kernel=3),
    Attention(hidden=16, heads=8, kv_heads=4, head_dim=4, selected=8),
    PooledKeys(heads=8, kv_heads=4, head_dim=4, pool=5),
]


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize("layer", EVEN, ids=repr)
def test_tensor_parallelism_divides_layers_that_split_evenly(layer: LayerCost, tp: int) -> None:
    whole, part = cost_of(layer), cost_of(layer, tp)
    assert part.prefill_flops(3, 50) == whole.prefill_flops(3, 50) / tp
    assert part.state_bytes == whole.state_bytes / tp
    assert part.kv_bytes(50) == whole.kv_bytes(50) / tp
    assert part.parameters == whole.parameters


def test_key_value_heads_are_copied_where_there_are_fewer_than_ranks() -> None:
    layer = Attention(hidden=16, heads=8, kv_heads=2, head_dim=4)
    assert [layer.keys(tp).kv_elements for tp in (1, 2, 4, 8)] == [16, 8, 8, 8]
    assert [layer.weights(tp) for tp in (2, 4)] == [16 * (2 * 16 + 2 * 4), 16 * (2 * 8 + 2 * 4)]


def test_the_latent_of_mla_is_copied_to_every_rank() -> None:
    layer = LatentAttention(
        hidden=16, heads=8, q_rank=12, kv_rank=8, nope_dim=4, rope_dim=2, v_dim=4
    )
    copied = 16 * 12 + 16 * (8 + 2)
    assert layer.keys(4).kv_elements == layer.keys(1).kv_elements == 8 + 2
    assert layer.keys(4).flops == layer.keys(1).flops / 4
    assert layer.weights(4) - copied == (layer.weights(1) - copied) / 4


def test_the_router_and_the_latent_projections_are_copied_to_every_rank() -> None:
    layer = MixtureOfExperts(
        hidden=16, intermediate=8, experts=12, active=2, shared_intermediate=4, latent=8
    )
    copied = 16 * 12 + 2 * 16 * 8
    assert layer.weights(4) - copied == (layer.weights(1) - copied) / 4


@pytest.mark.parametrize(
    "layer",
    [
        LightningIndexer(hidden=16, q_rank=12, heads=8, head_dim=4),
        BlockIndexer(hidden=16, heads=8, head_dim=4, pool=4),
        HyperConnection(hidden=16, streams=4),
        GatedResidual(hidden=16, streams=4, rank=8),
        NGramEmbedding(hidden=16, streams=4, embedding=8, conv_kernel=4, ngram=3),
        NGramContext(ngram=3),
    ],
    ids=repr,
)
def test_what_stands_beside_heads_is_copied_to_every_rank(layer: LayerCost) -> None:
    assert cost_of(layer, 4) == cost_of(layer)


def test_values_and_the_last_token_of_cca_are_copied_to_every_rank() -> None:
    layer = CompressedConvolutionalAttention(
        hidden=16, heads=8, kv_heads=4, head_dim=4, first_kernel=2, second_kernel=3
    )
    values = 16 * 4 * 4
    assert layer.weights(4) - values == (layer.weights(1) - values) / 4
    assert layer.state(4).conv - 16 == (layer.state(1).conv - 16) / 4
    assert layer.keys(4).flops == layer.keys(1).flops / 4
    assert [layer.keys(tp).kv_elements for tp in (1, 4)] == [32, 8]


def test_distances_and_outputs_of_inkling_are_copied_to_every_rank() -> None:
    layer = RelativeAttention(hidden=16, heads=8, kv_heads=4, head_dim=4, relative=3, extent=5)
    assert layer.weights(4) - 3 * 5 == (layer.weights(1) - 3 * 5) / 4
    # Every head multiplies with the same matrix.
    assert [layer.scan_flops(tp) for tp in (1, 4)] == [2 * 7 * 3 * 5, 2 * 3 * 5]
    assert layer.keys(4).flops == layer.keys(1).flops / 4
    convolutions = StreamConvolutions(
        hidden=16, kv_heads=4, head_dim=4, unused_heads=2, unused_dim=8, conv_kernel=3
    )
    outputs = 2 * 16 * 3
    assert convolutions.weights(4) - outputs == (convolutions.weights(1) - outputs) / 4


def test_keys_that_may_be_chosen_are_all_stored() -> None:
    dense = Attention(hidden=16, heads=8, kv_heads=2, head_dim=4)
    chosen, slid = cost_of(replace(dense, selected=6)), cost_of(replace(dense, window=6))
    assert chosen.kv_bytes(50) == cost_of(dense).kv_bytes(50)
    assert slid.kv_bytes(50) == cost_of(dense).kv_bytes(6)
    assert chosen.prefill_flops(0, 50) == slid.prefill_flops(0, 50)


def test_the_absorbed_form_needs_the_same_weights() -> None:
    expanded = LatentAttention(
        hidden=16, heads=8, q_rank=12, kv_rank=8, nope_dim=4, rope_dim=2, v_dim=4
    )
    absorbed = replace(expanded, selected=6)
    assert absorbed.weights(2) == expanded.weights(2)
    # All latents are stored, and at most six of them attended to.
    assert cost_of(absorbed).kv_bytes(50) == cost_of(expanded).kv_bytes(50)
    assert absorbed.keys(2).flops == absorbed.keys(1).flops / 2


def test_experts_that_another_layer_owns_are_used_and_not_counted_twice() -> None:
    owner = MixtureOfExperts(
        hidden=15, intermediate=13, experts=7, active=3, shared_intermediate=17
    )
    reused = replace(owner, reused=True)
    assert reused.weights(2) == owner.weights(2)
    assert reused.total_weights() == 3 * 15 * 17


def test_the_narrow_half_of_a_low_rank_gate_is_copied_to_every_rank() -> None:
    layer = KimiDeltaAttention(hidden=16, heads=8, head_dim=4, conv_kernel=4)
    copied = 2 * 16 * 4
    assert layer.weights(4) - copied == (layer.weights(1) - copied) / 4
    assert layer.state(4).recurrent == layer.state(1).recurrent / 4


@pytest.mark.parametrize(
    "layer",
    [
        Attention(hidden=16, heads=6, kv_heads=6, head_dim=4),
        Attention(hidden=16, heads=12, kv_heads=6, head_dim=4),
        Mamba2(hidden=16, heads=6, head_dim=4, groups=1, state_dim=8, conv_kernel=4),
        KimiDeltaAttention(hidden=16, heads=6, head_dim=4, conv_kernel=4),
    ],
    ids=repr,
)
def test_heads_that_do_not_split_are_an_error(layer: LayerCost) -> None:
    with pytest.raises(ShardingError, match=r"6 .* cannot be split over 4"):
        cost_of(layer, tp=4)
