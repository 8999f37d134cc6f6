"""Inkling's attention and experts against those of transformers."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang_marconi.cpu import experts, inkling
from torch import Tensor
from transformers.models.inkling.configuration_inkling import InklingTextConfig
from transformers.models.inkling.modeling_inkling import (
    InklingExperts,
    InklingRelativeLogits,
    eager_attention_forward,
)

HEADS, KV_HEADS, DIM, EXTENT = 4, 2, 8, 12
SCALE = 1 / DIM


def assert_close(ours: Tensor, wanted: Tensor) -> None:
    scale = float(wanted.abs().max())
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5 * scale)


class Pool:
    """Keys and values; those of a layer with a window may be in places of their own."""

    def __init__(self, apart: bool) -> None:
        self.keys, self.values = (torch.full((200, KV_HEADS, DIM), torch.nan) for _ in range(2))
        self.layers_mapping = {7: (0, True)} if apart else {}
        self.moved = torch.randperm(200) if apart else torch.arange(200)

    def set_kv_buffer(self, layer: Any, places: Any, k: Tensor, v: Tensor) -> None:
        chosen = places.swa_loc if self.layers_mapping else places.loc
        self.keys[chosen], self.values[chosen] = (t.view(-1, KV_HEADS, DIM) for t in (k, v))

    def get_key_buffer(self, _layer: int) -> Tensor:
        return self.keys

    def get_value_buffer(self, _layer: int) -> Tensor:
        return self.values

    def translate_loc_from_full_to_swa(self, places: Tensor) -> Tensor:
        return self.moved[places]


class Conversation:
    """Two sequences: what a layer gets for their tokens, and what it should answer."""

    def __init__(self, window: int, apart: bool) -> None:
        torch.manual_seed(3)
        self.window, self.totals = window, [41, 9]
        self.pool = Pool(apart)
        places = torch.randperm(200)
        self.table = torch.zeros(5, 50, dtype=torch.int32)
        self.requests = [4, 1]
        self.table[4, :41], self.table[1, :9] = places[:41].int(), places[41:50].int()
        self.layer = SimpleNamespace(
            layer_id=7, tp_q_head_num=HEADS, qk_head_dim=DIM, v_head_dim=DIM, scaling=SCALE,
            sliding_window_size=window,
        )  # fmt: skip
        self.backend = SimpleNamespace(
            token_to_kv_pool=self.pool,
            req_to_token_pool=SimpleNamespace(req_to_token=self.table),
        )
        self.logits = InklingRelativeLogits(3, EXTENT)
        self.logits.proj.data = 2 * torch.randn(3, EXTENT)
        self.inputs = [
            {
                "q": 3 * torch.randn(n, HEADS, DIM), "k": torch.randn(n, KV_HEADS, DIM),
                "v": torch.randn(n, KV_HEADS, DIM), "r": torch.randn(n, HEADS, 3),
            }
            for n in self.totals
        ]  # fmt: skip

    def wanted(self, sequence: int) -> Tensor:
        given = self.inputs[sequence]
        at = torch.arange(self.totals[sequence])
        distance = at[:, None] - at
        unseen = distance < 0
        if self.window >= 0:
            unseen |= distance > self.window
        mask = torch.zeros(distance.shape).masked_fill(unseen, float("-inf"))
        q, k, v = (given[name].transpose(0, 1)[None] for name in "qkv")
        bias = self.logits(given["r"][None], at, at)
        module: Any = SimpleNamespace(num_key_value_groups=HEADS // KV_HEADS, training=False)
        out, _ = eager_attention_forward(module, q, k, v, mask, SCALE, position_bias=bias)
        return out[0].flatten(1).detach()

    def forward(self, parts: list[slice], decode: bool = False) -> list[Tensor]:
        """What ours answers to these parts of the sequences."""
        lengths = torch.tensor([part.stop - part.start for part in parts])
        joined = {
            name: torch.cat([s[name][part] for s, part in zip(self.inputs, parts, strict=True)])
            for name in "qkvr"
        }
        places = torch.cat(
            [self.table[r, part] for r, part in zip(self.requests, parts, strict=True)]
        ).long()
        self.backend.swa_out_cache_loc = self.pool.translate_loc_from_full_to_swa(places)
        batch = SimpleNamespace(
            req_pool_indices=torch.tensor(self.requests),
            seq_lens=torch.tensor([part.stop for part in parts]),
            extend_seq_lens=None if decode else lengths,
            out_cache_loc=places,
        )
        bias = (joined["r"] @ self.logits.proj).detach()
        method = inkling.attend_decode if decode else inkling.attend_extend
        out = method(
            refuse, self.backend, *(joined[name].flatten(1) for name in "qkv"), self.layer, batch,
            score_mod=object(), aux_tensors=[bias],
        )  # fmt: skip
        return list(torch.split(out, lengths.tolist()))


def refuse(*_args: object) -> Tensor:
    raise AssertionError("SGLang's attention knows no bias")


@pytest.mark.parametrize(("window", "apart"), [(-1, False), (5, False), (5, True), (20, True)])
def test_prefill_in_parts_and_decode_steps(window: int, apart: bool) -> None:
    talk = Conversation(window, apart)
    ends = [[0, 0], [30, 3], [38, 7], [39, 8], [40, 9]]
    parts = []
    for step in range(4):
        spans = [slice(a, b) for a, b in zip(ends[step], ends[step + 1], strict=True)]
        parts.append(talk.forward(spans, decode=step >= 2))
        if window >= 0:  # What has left the window may have been given away.
            gone = talk.table[4, : max(0, ends[step + 1][0] - window)].long()
            talk.pool.keys[talk.pool.moved[gone]] = torch.nan
    for sequence in (0, 1):
        ours = torch.cat([part[sequence] for part in parts])
        assert_close(ours, talk.wanted(sequence)[: ends[-1][sequence]])


def test_without_a_bias_it_is_sglangs_attention() -> None:
    def original(*args: object) -> Any:
        return args

    given = ("backend", "q", "k", "v", "layer", "batch", False)
    assert inkling.attend_extend(original, *given) == given  # type: ignore[arg-type]
    assert inkling.attend_decode(original, *given) == given  # type: ignore[arg-type]


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("gathered", [True, False])
def test_experts(interleaved: bool, gathered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "GATHERED_ELEMENTS", 1 << 30 if gathered else 0)
    torch.manual_seed(5)
    config = InklingTextConfig(
        hidden_size=24, n_routed_experts=6, moe_intermediate_size=10, hidden_act="silu"
    )
    theirs = InklingExperts(config)
    w13, w2 = torch.randn(6, 20, 24), torch.randn(6, 24, 10)
    theirs.gate_up_proj.data, theirs.down_proj.data = w13, w2
    x = torch.randn(9, 24)
    weights, ids = torch.rand(9, 6).topk(3)
    wanted = theirs(x, ids, weights).detach()
    if interleaved:
        w13 = w13.view(6, 2, 10, 24).transpose(1, 2).reshape(6, 20, 24)
    ours = inkling.moe_tp_forward(x, weights, ids.int(), w13, w2, use_interleaved=interleaved)
    assert_close(ours, wanted)
    with pytest.raises(ValueError, match="gelu"):
        inkling.moe_tp_forward(x, weights, ids, w13, w2, activation_type="gelu")
