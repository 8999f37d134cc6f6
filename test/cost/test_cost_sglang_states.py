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
    glm5_next,
    granitemoehybrid,
    inkling,
    jet_nemotron,
    jet_vlm,
    kimi_k3,
    kimi_linear,
    lfm2,
    lfm2_moe,
    minicpm,
    nemotron_h,
    qwen3_next,
    qwen4_exp,
    zaya,
)
from sglang.srt.configs.model_config import dsa_layer_skips_topk
from sglang.srt.layers.attention.qsa.config import parse_qsa_profile
from sglang.srt.mem_cache.ple_state_pool import NGramPool, ShortConvPool
from sglang.srt.mem_cache.qsa_kv_pool import QSATokenToKVPool
from sglang_marconi.cost import ENCODINGS, from_config, preset_config
from sglang_marconi.cost.config_view import ConfigView
from sglang_marconi.cost.families import layers_of
from sglang_marconi.cost.sparse import LightningIndexer
from support.new_families import (
    INKLING,
    MINICPM_SALA,
    NEMOTRON_PUZZLE,
    ZAYA1_BASE,
)
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
    "kimi-k3": (configs.KimiLinearConfig, preset_config("kimi-k3")),
    "lfm2-2.6b": (configs.Lfm2Config, preset_config("lfm2-2.6b")),
    "lfm2-8b-a1b": (configs.Lfm2MoeConfig, LFM2_8B_A1B),
    "ling-lightning": (configs.BailingHybridConfig, LING),
    "ling-kda": (configs.BailingHybridConfig, LING | {"short_conv_kernel_size": 4}),
    "jet-nemotron": (configs.JetNemotronConfig, JET_NEMOTRON),
    "gigachat-3.5": (gigachat35.GigaChat35Config, GIGACHAT),
    # Two key/value heads do not divide over four ranks.
    "zaya": (
        zaya.ZayaConfig,
        ZAYA1_BASE | {"num_key_value_heads": 4, "num_query_groups": 4},
    ),
    "glm-5.3-flash": (glm5_next.Glm5NextTextConfig, preset_config("glm-5.3-flash")),
    "qwen3.8-flash-next": (
        qwen4_exp.Qwen4ExpTextConfig,
        preset_config("qwen3.8-flash-next") | {"eos_token_id": 1},
    ),
    "inkling": (inkling.InklingModelConfig, INKLING),
    "minicpm-sala": (minicpm.MiniCPMHybridConfig, MINICPM_SALA),
    "nemotron-h-puzzle": (nemotron_h.NemotronHPuzzleConfig, NEMOTRON_PUZZLE),
}
MODULES = [
    bailing_hybrid,
    falcon_h1,
    granitemoehybrid,
    inkling,
    jet_nemotron,
    kimi_linear,
    lfm2,
    lfm2_moe,
    minicpm,
    nemotron_h,
    qwen3_next,
    runtime_context,
    zaya,
]


def sglang_config(name: str) -> Any:
    config_class, fields = SERVED[name]
    return config_class(**{key: value for key, value in fields.items() if key != "model_type"})


@pytest.fixture(params=[1, 2, 4])
def tp_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Make SGLang's config classes believe in that many ranks."""
    size = int(request.param)
    parallel = SimpleNamespace(tp_size=size, attn_tp_size=size, enable_cp_tp_group_sharing=False)
    for module in MODULES:
        monkeypatch.setattr(module, "get_parallel", lambda: parallel)
    scattered = SimpleNamespace(comm=SimpleNamespace(enable_scattered_sconv=False))
    monkeypatch.setattr(inkling, "get_exec", lambda: scattered)
    return size


def side_bytes(config: Any) -> int:
    """What SGLang attaches to a slot beside convolution windows and recurrent states."""
    dtype = config.mamba2_cache_params.dtype.conv
    windows = ShortConvPool(
        size=3,
        state_shape=config.short_conv_state_shape,
        layer_ids=config.short_conv_layer_ids,
        dtype=dtype,
        device="cpu",
    )
    tokens = NGramPool(size=3, context_len=config.ngram_context_len, eos_token_id=1, device="cpu")
    assert windows.conv_state is not None
    assert tokens.context is not None
    return int(windows.conv_state[:, 0].nbytes + tokens.context[0].nbytes)


@pytest.mark.parametrize("name", SERVED)
def test_state_bytes_are_what_sglang_allocates(name: str, tp_size: int) -> None:
    config = sglang_config(name)
    ours = from_config(config, tp_size=tp_size)
    beside = side_bytes(config) if name == "qwen3.8-flash-next" else 0
    assert ours.state_bytes == config.mamba2_cache_params.mamba_cache_per_req + beside


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
        beside = side_bytes(config) if name == "qwen3.8-flash-next" else 0
        assert 0 <= stored + beside - ours.encoded_state_bytes(encoding) <= padding


WRAPPED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "kimi-k3": (lambda text: kimi_k3.KimiK3Config(text_config=text), "kimi-k3"),
    "jet-vlm": (lambda text: jet_vlm.JetVLMConfig(text_config=text), "jet-nemotron"),
    "lfm2-vl": (lambda text: configs.Lfm2VlConfig(text_config=text), "lfm2-2.6b"),
    "intern-s2-preview": (
        lambda text: configs.InternS2PreviewConfig(text_config=text),
        "qwen3.5-35b-a3b",
    ),
    "nemotron-nano-vl": (
        lambda text: configs.NemotronH_Nano_VL_V2_Config(llm_config=text, vision_config={}),
        "nemotron-nano-9b-v2",
    ),
    "nemotron-nano-vl-puzzle": (
        lambda text: configs.NemotronH_Nano_VL_V2_Config(llm_config=text, vision_config={}),
        "nemotron-h-puzzle",
    ),
    "ling-vl": (lambda text: bailing_hybrid.BailingMoeV3VLConfig(text_config=text), "ling-kda"),
    "glm-5-next": (lambda text: glm5_next.Glm5NextConfig(text_config=text), "glm-5.3-flash"),
    "qwen4-exp": (lambda text: qwen4_exp.Qwen4ExpConfig(text_config=text), "qwen3.8-flash-next"),
    "qwen3.5": (lambda text: configs.Qwen3_5Config(text_config=text), "qwen3.5-4b"),
    "inkling": (lambda text: inkling.InklingMMConfig(text_config=text), "inkling"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_multimodal_model_costs_what_its_language_model_costs(name: str) -> None:
    wrap, inner = WRAPPED[name]
    config = SERVED[inner][1]
    assert from_config(wrap(dict(config))) == from_config(config)


# Whose language model may be of two families.
AMBIGUOUS = ("lfm2-vl", "nemotron-nano-vl", "nemotron-nano-vl-puzzle")


@pytest.mark.parametrize("name", [name for name in WRAPPED if name not in AMBIGUOUS])
def test_the_text_part_of_a_config_need_not_name_its_type(name: str) -> None:
    wrap, inner = WRAPPED[name]
    config = SERVED[inner][1]
    text = {key: value for key, value in config.items() if key != "model_type"}
    outer = {"model_type": wrap(dict(config)).model_type, "text_config": text}
    assert from_config(outer) == from_config(config)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"index_topk_freq": 2},
        {"index_topk_freq": 3},
        {"index_topk_freq": 8, "index_skip_topk_offset": 4},
        {"index_topk_pattern": "FFFF" + "S" * 4 + "F"},
        {"indexer_types": ["full"] * 8 + ["shared"] * 37},
    ],
    ids=str,
)
def test_layers_share_a_choice_of_keys_where_sglangs_do(fields: dict[str, Any]) -> None:
    config = glm5_next.Glm5NextTextConfig(**preset_config("glm-5.3-flash"), **fields)
    config.architectures = ["Glm5NextForConditionalGeneration"]
    theirs = sum(
        not dsa_layer_skips_topk(config, layer) for layer in config.full_attention_layer_ids
    )
    layers = layers_of(ConfigView(preset_config("glm-5.3-flash") | fields))
    assert sum(isinstance(layer, LightningIndexer) for layer in layers) == theirs
    # Pooled keys of 8 bits with a scale of 32 bits, one for 4 tokens, beside the latents.
    kv_bytes = from_config(preset_config("glm-5.3-flash") | fields).kv_bytes_per_token
    assert kv_bytes == 11 * 512 * 2 + theirs * 33


def test_qwen4_stores_the_keys_of_blocks_as_sglang_does() -> None:
    profile = parse_qsa_profile(sglang_config("qwen3.8-flash-next"))
    assert profile is not None
    theirs = QSATokenToKVPool.qsa_bytes_per_token(
        kv_heads=profile.kv_heads,
        head_dim=profile.head_dim,
        compress_ratio=profile.compress_ratio,
        num_layers=12,
    )
    config = preset_config("qwen3.8-flash-next")
    dense = {key: value for key, value in config.items() if key != "indexer_n_heads"}
    ours = from_config(config).kv_bytes_per_token - from_config(dense).kv_bytes_per_token
    assert ours == theirs
