"""What Qwen4-Exp has beside its layers' states, taken inside a pass, is that of a prefill there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from sglang.srt.mem_cache.ple_state_pool import NGramPool, ShortConvPool
from sglang.srt.model_executor import forward_context
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.models import qwen4_exp
from sglang_marconi.forward.layers import EMBEDDINGS, NGRAMS
from sglang_marconi.forward.plan import PassPlan, Place, Row, carried_out
from sglang_marconi.forward.ple import take_embedded, take_ngrams
from support.passes import SomePass
from torch import Tensor, nn

CHANNELS, KERNEL, NGRAM, EOS = 4, 3, 3, 0
WIDTH = (KERNEL - 1) * NGRAM
LAYERS = (1, 3)


class Pools:
    """What SGLang's model asks its request pool for; each request is in a slot of its number."""

    def __init__(self, slots: int, seed: int) -> None:
        torch.manual_seed(seed)
        size = slots - 1
        self.size = size
        self.short_conv_pool = ShortConvPool(
            size=size,
            state_shape=(CHANNELS, WIDTH),
            layer_ids=list(LAYERS),
            dtype=torch.float32,
            device="cpu",
        )
        self.ngram_pool = NGramPool(
            size=size, context_len=NGRAM - 1, eos_token_id=EOS, device="cpu"
        )
        self.short_conv_pool.conv_state.normal_()
        self.ngram_pool.context.random_(100, 1000)
        self.short_conv_layer_cache = self.short_conv_pool.layer_cache
        self.get_ngram_context = self.ngram_pool.get_context
        self.set_ngram_context = self.ngram_pool.set_context

    def get_mamba_indices(self, requests: Tensor) -> Tensor:
        return requests.int()

    def clear(self, slots: Tensor) -> None:
        """As a slot is that a request begins in."""
        self.short_conv_pool.reset_slots(slots)
        self.ngram_pool.reset_slots(slots)

    @property
    def held(self) -> tuple[Tensor, Tensor]:
        """Windows ``[layers, slots, channels, width]`` and tokens ``[slots, width]``."""
        return self.short_conv_pool.conv_state, self.ngram_pool.context


class Embedded(NamedTuple):
    """Tokens of a pass, and what each layer convolves."""

    tokens: Tensor
    inputs: Tensor
    kernels: Tensor

    @classmethod
    def of(cls, tokens: int, seed: int) -> Embedded:
        torch.manual_seed(seed + 1)
        return cls(
            torch.randint(100, 1000, (tokens,)),
            torch.randn(len(LAYERS), tokens, CHANNELS),
            torch.randn(len(LAYERS), CHANNELS, 1, KERNEL),
        )

    def part(self, begin: int, end: int) -> Embedded:
        return Embedded(self.tokens[begin:end], self.inputs[:, begin:end], self.kernels)


def forward(
    pools: Pools,
    given: Embedded,
    slots: Tensor,
    lengths: list[int],
    padding: tuple[int, int] = (0, 0),
    taking: bool = False,
) -> list[Tensor]:
    """The model's own functions, in its order; ``padding``: rows without tokens, and tokens."""
    rows, behind = padding
    lengths = [*lengths, *[0] * rows]
    batch = SimpleNamespace(
        tbo_parent_token_range=None,
        spec_algorithm=None,
        spec_info=None,
        forward_mode=ForwardMode.EXTEND,
        _original_forward_mode=None,
        global_num_token_non_padded_cpu=None,
        extend_seq_lens_cpu=lengths,
        extend_seq_lens=torch.tensor(lengths),
        req_pool_indices=torch.cat([slots, torch.zeros(rows, dtype=torch.int64)]),
        out_cache_loc=None,
        mamba_track_indices=None,
        mamba_track_mask=None,
    )
    embedded = qwen4_exp._prepare_ple_batch(
        torch.cat([given.tokens, given.tokens.new_zeros(behind)]),
        batch,
        ngram_size=NGRAM,
        ngram_eos_token_id=EOS,
    )
    outputs = [embedded.ngram_context.clone()]
    for layer_id, inputs, kernel in zip(LAYERS, given.inputs, given.kernels, strict=True):
        layer: Any = SimpleNamespace(
            layer_id=layer_id,
            conv_channels=CHANNELS,
            short_conv_dilation=NGRAM,
            short_conv_state_len=WIDTH,
            conv1d=SimpleNamespace(weight=nn.Parameter(kernel, requires_grad=False)),
        )
        if taking:
            take_embedded(layer, inputs, batch, embedded)
        outputs.append(qwen4_exp.Qwen4ExpPLELayer._short_conv(layer, inputs, batch, embedded))
    if taking:
        take_ngrams(batch=embedded, forward_batch=batch)
    qwen4_exp._commit_ple_batch(batch=embedded, forward_batch=batch)
    return outputs


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has SGLang's model use these pools."""

    def these(pools: Pools) -> Pools:
        for module in (qwen4_exp, forward_context):
            monkeypatch.setattr(module, "get_req_to_token_pool", lambda: pools)
        return pools

    return these


def some_pools(some: SomePass, seed: int) -> Pools:
    # The first slot is for padding.
    pools = Pools(some.slots + 1, seed)
    pools.clear(1 + some.live[~some.resumed])
    return pools


def planned(some: SomePass) -> PassPlan:
    return PassPlan(some.rows, some.places, [1 + slot for slot in some.taken.view(-1, 1)])


@pytest.mark.parametrize("padding", [(0, 0), (2, 3)])
@pytest.mark.parametrize("seed", range(12))
def test_windows_and_tokens_are_those_of_prefixes(
    seed: int, padding: tuple[int, int], use: Any
) -> None:
    some = SomePass.random(seed)
    given = Embedded.of(some.tokens, seed)
    live = 1 + some.live
    plain = use(some_pools(some, seed))
    wanted = forward(plain, given, live, some.lengths, padding)
    pools, plan = use(some_pools(some, seed)), planned(some)
    with carried_out(plan):
        found = forward(pools, given, live, some.lengths, padding, taking=True)
    every = [*((EMBEDDINGS, layer_id) for layer_id in LAYERS), (NGRAMS, None)]
    assert plan.missing(iter(every)) == []
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
    windows, tokens = pools.held
    others = torch.cat([live, 1 + some.untouched()])
    assert torch.equal(windows[:, others], plain.held[0][:, others])
    assert torch.equal(tokens[others], plain.held[1][others])
    for at in some.prefixes():
        alone = use(some_pools(some, seed))
        slot = live[at.row]
        forward(alone, given.part(at.begin, at.end), slot[None], [at.end - at.begin])
        assert torch.equal(windows[:, 1 + at.slot], alone.held[0][:, slot])
        assert torch.equal(tokens[1 + at.slot], alone.held[1][slot])


def test_a_part_of_a_pass_leaves_nothing(use: Any) -> None:
    some = SomePass.of([Row(5, False), Row(9, False)], [Place(0, 3), Place(1, 8)])
    pools, plan = use(some_pools(some, 1)), planned(some)
    with carried_out(plan):
        part = Embedded.of(14, 1).part(5, 14)
        forward(pools, part, 1 + some.live[1:], [9], taking=True)
    assert all(plan.lacks(EMBEDDINGS, layer_id) for layer_id in LAYERS)
    assert plan.lacks(NGRAMS)
