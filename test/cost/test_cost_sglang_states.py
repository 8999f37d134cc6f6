"""Bytes of a checkpoint against what SGLang's own config classes say its pool allocates."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from marconi_kernels import Encoding, StateLayout, StatePart
from sglang.srt import configs, runtime_context
from sglang.srt.configs import (
    bailing_hybrid,
    falcon_h1,
    gigachat35,
    granitemoehybrid,
    jet_nemotron,
    kimi_linear,
    lfm2,
    lfm2_moe,
    nemotron_h,
    qwen3_next,
)
from sglang_marconi.cost import ENCODINGS, from_config, preset_config
from support.public_models import (
    CODESTRAL_MAMBA,
    FALCON_MAMBA,
    GIGACHAT,
    JET_NEMOTRON,
    LFM2_8B_A1B,
    LING,
    NEMOTRON_3_SUPER,
    QWEN3_5_4B,
)

SERVED: dict[str, tuple[Callable[..., Any], Any]] = {
    "nemotron-h-8b": (configs.NemotronHConfig, preset_config("nemotron-h-8b")),
    "nemotron-nano-9b-v2": (configs.NemotronHConfig, preset_config("nemotron-nano-9b-v2")),
    "nemotron-3-super": (configs.NemotronHConfig, NEMOTRON_3_SUPER),
    "falcon-h1-7b": (configs.FalconH1Config, preset_config("falcon-h1-7b")),
    "granite-4.0-h-tiny": (configs.GraniteMoeHybridConfig, preset_config("granite-4.0-h-tiny")),
    "granite-4.0-h-small": (configs.GraniteMoeHybridConfig, preset_config("granite-4.0-h-small")),
    "falcon-mamba-7b": (configs.FalconMambaConfig, FALCON_MAMBA),
    "mamba-codestral-7b": (configs.Mamba2Config, CODESTRAL_MAMBA),
    "qwen3-next-80b-a3b": (configs.Qwen3NextConfig, preset_config("qwen3-next-80b-a3b")),
    "qwen3.5-4b": (configs.qwen3_5.Qwen3_5TextConfig, QWEN3_5_4B["text_config"]),
    "qwen3.5-35b-a3b": (configs.qwen3_5.Qwen3_5MoeTextConfig, preset_config("qwen3.5-35b-a3b")),
    "kimi-linear-48b-a3b": (configs.KimiLinearConfig, preset_config("kimi-linear-48b-a3b")),
    "lfm2-2.6b": (configs.Lfm2Config, preset_config("lfm2-2.6b")),
    "lfm2-8b-a1b": (configs.Lfm2MoeConfig, LFM2_8B_A1B),
    "ling-lightning": (configs.BailingHybridConfig, LING),
    "ling-kda": (configs.BailingHybridConfig, LING | {"short_conv_kernel_size": 4}),
    "jet-nemotron": (configs.JetNemotronConfig, JET_NEMOTRON),
    "gigachat-3.5": (gigachat35.GigaChat35Config, GIGACHAT),
}
MODULES = [
    bailing_hybrid,
    falcon_h1,
    granitemoehybrid,
    jet_nemotron,
    kimi_linear,
    lfm2,
    lfm2_moe,
    nemotron_h,
    qwen3_next,
    runtime_context,
]


def sglang_config(name: str) -> Any:
    config_class, fields = SERVED[name]
    return config_class(**{key: value for key, value in fields.items() if key != "model_type"})


@pytest.fixture(params=[1, 2, 4])
def tp_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Make SGLang's config classes believe in that many ranks."""
    size = int(request.param)
    parallel = SimpleNamespace(tp_size=size, attn_tp_size=size)
    for module in MODULES:
        monkeypatch.setattr(module, "get_parallel", lambda: parallel)
    monkeypatch.setattr(qwen3_next, "linear_attn_tp_size", lambda: size)
    return size


@pytest.mark.parametrize("name", SERVED)
def test_state_bytes_are_what_sglang_allocates(name: str, tp_size: int) -> None:
    config = sglang_config(name)
    ours = from_config(config, tp_size=tp_size)
    assert ours.state_bytes == config.mamba2_cache_params.mamba_cache_per_req


@pytest.mark.parametrize("name", SERVED)
def test_sglangs_config_object_costs_what_the_json_costs(name: str) -> None:
    assert from_config(sglang_config(name)) == from_config(SERVED[name][1])


@pytest.mark.parametrize("name", SERVED)
def test_encoded_state_bytes_are_what_the_store_takes(name: str, tp_size: int) -> None:
    config = sglang_config(name)
    ours = from_config(config, tp_size=tp_size)
    params = config.mamba2_cache_params
    parts = [StatePart(tuple(shape), params.dtype.conv, False) for shape in params.shape.conv]
    if all(params.shape.temporal):
        parts.append(StatePart(tuple(params.shape.temporal), params.dtype.temporal, True))
    layout = StateLayout(len(params.layers), parts)
    for encoding in ENCODINGS:
        stored = layout.encoded_bytes(Encoding[encoding.upper()])
        # Each layer's part starts at a multiple of 16 bytes.
        padding = 16 * len(params.layers) * len(parts)
        assert 0 <= stored - ours.encoded_state_bytes(encoding) <= padding
