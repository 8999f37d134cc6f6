"""Mixtures of experts against what SGLang and transformers have of them in torch."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.moe.fused_moe_native import moe_forward_native as sglang_forward
from sglang.srt.layers.moe.moe_runner import MoeRunnerConfig
from sglang.srt.layers.moe.moe_runner.triton_utils import fused_moe
from sglang.srt.layers.moe.topk import StandardTopKOutput
from sglang_marconi.cpu import experts
from torch import Tensor
from torch.nn import functional as F
from transformers.models.nemotron_h.configuration_nemotron_h import NemotronHConfig
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

FEATURES, INNER, EXPERTS, CHOSEN = 24, 10, 6, 3
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True, params=["gathered", "by expert"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of computing the same, whatever the number of tokens."""
    elements = 1 << 30 if request.param == "gathered" else 0
    monkeypatch.setattr(experts, "GATHERED_ELEMENTS", elements)


def layer(gated: bool = True, bias: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(1)
    rows = 2 * INNER if gated else INNER
    made = SimpleNamespace(
        num_experts=EXPERTS,
        w13_weight=torch.randn(EXPERTS, rows, FEATURES).to(dtype),
        w2_weight=torch.randn(EXPERTS, FEATURES, INNER).to(dtype),
    )
    if bias:
        made.w13_weight_bias = torch.randn(EXPERTS, rows)
        made.w2_weight_bias = torch.randn(EXPERTS, FEATURES)
    return made


def routed(tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, StandardTopKOutput]:
    torch.manual_seed(tokens)
    scores = torch.randn(tokens, EXPERTS)
    scores[:, 4] = -9.0  # an expert that nobody chooses
    weights, ids = scores.softmax(-1).topk(CHOSEN)
    x = torch.randn(tokens, FEATURES).to(dtype)
    return x, StandardTopKOutput(weights, ids.int(), scores)


def assert_close(ours: Tensor, wanted: Tensor) -> None:
    assert ours.dtype == wanted.dtype
    scale = float(wanted.abs().max())
    tolerance = CLOSE[wanted.dtype] * scale
    torch.testing.assert_close(ours, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("tokens", [1, 2, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "given",
    [
        {"activation": "silu"},
        {"activation": "gelu"},
        {"activation": "situ"},
        {"activation": "situ", "gemm1_alpha": 1.5, "gemm1_clamp_limit": 2.0},
    ],
)
def test_gated_experts_are_those_of_sglang(
    tokens: int, dtype: torch.dtype, given: dict[str, Any]
) -> None:
    config = MoeRunnerConfig(**given)
    x, routes = routed(tokens, dtype)
    made = layer(bias=True, dtype=dtype)
    wanted = sglang_forward(made, x, routes, config)
    assert_close(experts.moe_forward_native(made, x, routes, config), wanted)


def test_experts_without_a_gate_are_those_of_nemotron() -> None:
    config = NemotronHConfig(
        hidden_size=FEATURES, n_routed_experts=EXPERTS, moe_intermediate_size=INNER,
        mlp_hidden_act="relu2",
    )  # fmt: skip
    theirs, made = NemotronHExperts(config), layer(gated=False)
    theirs.up_proj.data, theirs.down_proj.data = made.w13_weight, made.w2_weight
    x, routes = routed(9)
    wanted = theirs(x, routes.topk_ids.long(), routes.topk_weights)
    runner = MoeRunnerConfig(activation="relu2", is_gated=False)
    assert_close(experts.moe_forward_native(made, x, routes, runner), wanted.detach())


def test_scale_of_the_routed_output() -> None:
    x, routes = routed(9)
    plain = experts.moe_forward_native(layer(), x, routes, MoeRunnerConfig())
    config = MoeRunnerConfig(routed_scaling_factor=2.5)
    assert_close(experts.moe_forward_native(layer(), x, routes, config), 2.5 * plain)
    block = SimpleNamespace(experts=SimpleNamespace(moe_runner_config=config))
    experts.leave_scale_to_model(None, block)
    assert_close(experts.moe_forward_native(layer(), x, routes, config), plain)


# What SGLang's runner on GPUs calls, the functions below `torch.compile`.
LIMITED = {
    "on the activated gate": (
        {"gemm1_clamp_limit": 0.7},
        lambda x: fused_moe._swiglu_silu_clamp_mul.__wrapped__(x, 0.7),
    ),
    "of GPT-OSS": (
        {"gemm1_clamp_limit": 0.7, "gemm1_alpha": 1.7},
        lambda x: fused_moe.swiglu_gpt_oss_sigmoid_alpha.__wrapped__(x, 1.7, 0.7),
    ),
    "of GPT-OSS, halves apart": (
        {"gemm1_clamp_limit": 0.7, "gemm1_alpha": 1.7, "gate_up_interleaved": False},
        lambda x: fused_moe.swiglu_no_interleaved_with_alpha_and_limit.__wrapped__(x, 1.7, 0.7),
    ),
    "of DeepSeek": (
        {"swiglu_limit": 0.7},
        lambda x: F.silu(x[..., :INNER].clamp(max=0.7)) * x[..., INNER:].clamp(-0.7, 0.7),
    ),
}


@pytest.mark.parametrize("name", LIMITED)
def test_limits(name: str) -> None:
    given, activated = LIMITED[name]
    made = layer()
    x, routes = routed(9)
    inner = activated(torch.einsum("nd,nkid->nki", x, made.w13_weight[routes.topk_ids]))
    each = torch.einsum("nki,nkdi->nkd", inner, made.w2_weight[routes.topk_ids])
    wanted = (each * routes.topk_weights[..., None]).sum(1)
    config = MoeRunnerConfig(**given)
    assert_close(experts.moe_forward_native(made, x, routes, config), wanted)


def test_a_negative_id_adds_nothing_and_no_tokens_are_fine() -> None:
    x, routes = routed(9)
    ids = routes.topk_ids.clone()
    ids[2] = -1
    ids[3, 1] = -1
    weights = routes.topk_weights.masked_fill(ids < 0, 0)
    wanted = experts.moe_forward_native(
        layer(), x, routes._replace(topk_weights=weights), MoeRunnerConfig()
    )
    out = experts.moe_forward_native(layer(), x, routes._replace(topk_ids=ids), MoeRunnerConfig())
    assert_close(out, wanted)
    assert not out[2].any()
    x, routes = routed(0)
    out = experts.moe_forward_native(layer(), x, routes, MoeRunnerConfig())
    assert out.shape == (0, FEATURES)


def test_what_cannot_be_done_is_refused() -> None:
    x, routes = routed(2)
    for config in (
        MoeRunnerConfig(apply_router_weight_on_input=True),
        MoeRunnerConfig(activation="relu2"),
        MoeRunnerConfig(activation="situ", is_gated=False),
    ):
        with pytest.raises(NotImplementedError):
            experts.moe_forward_native(layer(), x, routes, config)
