"""Public models: sizes, agreement with transformers' own modules, and forms of a config."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

# Transformers imports this, which writes to the environment: before tests, not in one.
import torch._dynamo.aot_compile
from sglang_marconi.cost import (
    ConfigFieldError,
    UnknownLayerError,
    UnknownModelError,
    UnsupportedModelError,
    from_config,
    preset,
    preset_config,
    preset_names,
)
from support.new_families import MINICPM_SALA, NEMOTRON_PUZZLE
from support.public_models import (
    BAMBA,
    CODESTRAL_MAMBA,
    FALCON_MAMBA,
    GIGACHAT,
    GPT_OSS_120B,
    JAMBA,
    JET_NEMOTRON,
    LFM2_8B_A1B,
    LING,
    LLAMA_3_1_8B,
    PUBLISHED,
    QWEN3_5_4B,
    QWEN3_30B_A3B,
    Published,
)

BILLION = 1e9


@pytest.mark.parametrize("model", PUBLISHED.values(), ids=PUBLISHED)
def test_a_model_has_as_many_parameters_as_its_maker_says(model: Published) -> None:
    assert from_config(model.config).parameters == pytest.approx(model.total * BILLION, rel=0.06)


@pytest.mark.parametrize("name", [name for name, model in PUBLISHED.items() if model.active])
def test_a_short_prefill_costs_two_flops_per_active_parameter(name: str) -> None:
    """Makers count the embeddings or not: the stated number lies between the two."""
    model = PUBLISHED[name]
    cost = from_config(model.config)
    without_embeddings = cost.prefill_flops(0, 1) / 2
    assert model.active is not None
    assert without_embeddings <= model.active * BILLION * 1.11
    assert model.active * BILLION <= cost.active_parameters * 1.1


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_dense_model_activates_all_it_has(name: str) -> None:
    cost = from_config(PUBLISHED[name].config)
    has_experts = cost.active_parameters < cost.parameters
    unsaid = name in ("granite-4.0-h-tiny", "kimi-k3")
    assert has_experts == (PUBLISHED[name].active is not None or unsaid)


# The paper's model is none, transformers names the fields of Kimi-Linear differently, has no Ring,
# has GLM-5-Next with a vision model only, and wants more fields of Qwen4-Exp.
NOT_IN_TRANSFORMERS = (
    "paper-7b",
    "kimi-linear-48b-a3b",
    "kimi-k3",
    "ring-mini-linear-2.0",
    "glm-5.3-flash",
    "qwen3.8-flash-next",
)
IN_TRANSFORMERS: dict[str, Any] = {
    name: preset_config(name) for name in preset_names() if name not in NOT_IN_TRANSFORMERS
} | {
    "bamba-9b": BAMBA,
    "falcon-mamba-7b": FALCON_MAMBA,
    "gpt-oss-120b": GPT_OSS_120B,
    "jamba-v0.1": JAMBA,
    "lfm2-8b-a1b": LFM2_8B_A1B,
    "llama-3.1-8b": LLAMA_3_1_8B,
    "qwen3-30b-a3b": QWEN3_30B_A3B,
    "mamba-codestral-7b": CODESTRAL_MAMBA,
    "qwen3.5-4b": QWEN3_5_4B["text_config"],
}


@pytest.mark.parametrize("name", IN_TRANSFORMERS)
def test_the_matrices_are_those_of_transformers_own_model(name: str) -> None:
    """All but a few per mille: A of Mamba1, gates of shared experts, experts' biases."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    fields = dict(IN_TRANSFORMERS[name])
    # Not by CONFIG_MAPPING, where SGLang puts classes of its own in place of some.
    config = getattr(transformers, CONFIG_MAPPING_NAMES[fields.pop("model_type")])(**fields)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    matrices = sum(weight.numel() for weight in model.parameters() if weight.dim() > 1)
    ours = from_config(IN_TRANSFORMERS[name]).parameters
    assert ours == pytest.approx(matrices, rel=2e-3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_may_be_an_object(name: str) -> None:
    config = PUBLISHED[name].config
    assert from_config(SimpleNamespace(**config)) == from_config(config)


def test_the_language_model_of_a_multimodal_config_counts() -> None:
    nested = {"text_config": preset_config("qwen3.5-35b-a3b"), "model_type": "qwen3_5_moe"}
    assert from_config(nested) == preset("qwen3.5-35b-a3b")
    nested = {"llm_config": preset_config("nemotron-nano-9b-v2"), "model_type": "vl"}
    assert from_config(nested) == preset("nemotron-nano-9b-v2")


def test_a_nested_config_without_a_model_type_takes_the_outer_one() -> None:
    inner = {key: value for key, value in QWEN3_5_4B["text_config"].items() if key != "model_type"}
    assert from_config({"model_type": "qwen3_5", "text_config": inner}) == from_config(QWEN3_5_4B)


def test_layers_may_be_given_as_pattern_list_interval_or_indices() -> None:
    nemotron = dict(preset_config("nemotron-h-8b"))
    pattern = str(nemotron.pop("hybrid_override_pattern"))
    kinds = {"M": "mamba", "*": "attention", "-": "mlp"}
    nemotron["layers_block_type"] = [kinds[letter] for letter in pattern]
    assert from_config(nemotron) == preset("nemotron-h-8b")

    qwen = dict(preset_config("qwen3-next-80b-a3b"))
    del qwen["full_attention_interval"]
    qwen["layer_types"] = (["linear_attention"] * 3 + ["full_attention"]) * 12
    assert from_config(qwen) == preset("qwen3-next-80b-a3b")

    lfm2 = dict(preset_config("lfm2-2.6b"))
    at = lfm2.pop("full_attn_idxs")
    assert isinstance(at, list)
    lfm2["layer_types"] = ["full_attention" if layer in at else "conv" for layer in range(30)]
    assert from_config(lfm2) == preset("lfm2-2.6b")

    ring = dict(preset_config("ring-mini-linear-2.0"))
    ring["layer_group_size"] = ([1] * 4 + [0]) * 4
    assert from_config(ring) == preset("ring-mini-linear-2.0")


def test_lfm2_derives_the_width_of_its_mlp() -> None:
    """LFM2-1.2B: 12288 configured, 8192 built."""
    config = dict(preset_config("lfm2-2.6b"))
    derived = config | {
        "intermediate_size": 12288,
        "block_auto_adjust_ff_dim": True,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256,
    }
    assert from_config(derived) == from_config(config | {"intermediate_size": 8192})


def test_granite_without_experts_keeps_its_shared_mlp() -> None:
    """Granite-4.0-H-1B: the tiny model's mixers, a dense MLP of 4096."""
    config = dict(preset_config("granite-4.0-h-tiny"))
    config |= {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 4096}
    cost = from_config(config)
    assert cost.parameters == cost.active_parameters == pytest.approx(1.46 * BILLION, rel=0.01)


def test_ling_has_lightning_or_kda_layers_and_latent_attention() -> None:
    lightning, kda = from_config(LING), from_config(LING | {"short_conv_kernel_size": 4})
    assert lightning.kv_bytes_per_token == kda.kv_bytes_per_token == 4 * (512 + 64) * 2
    assert lightning.state_bytes == 16 * 16 * 128 * 128 * 4
    assert kda.state_bytes == lightning.state_bytes + 16 * 3 * (3 * 16 * 128) * 2
    full_rank = from_config(LING | {"short_conv_kernel_size": 4, "no_kda_lora": True})
    assert full_rank.parameters > kda.parameters


@pytest.mark.parametrize(("gate", "width"), [("head_wise", 16), ("element_wise", 16 * 128)])
def test_ling_may_gate_its_latent_attention(gate: str, width: int) -> None:
    gated = from_config(LING | {"gated_attention_proj_granularity_type": gate})
    assert gated.parameters - from_config(LING).parameters == 4 * 2048 * width


def test_kimi_k3_adds_gates_and_a_latent_to_kimi_linear() -> None:
    config = dict(preset_config("kimi-linear-48b-a3b"))
    plain = from_config(config)
    gated = from_config(config | {"mla_use_output_gate": True})
    assert gated.parameters - plain.parameters == 7 * 2304 * 32 * 128
    latent = from_config(config | {"routed_expert_hidden_size": 1152})
    assert latent.parameters < plain.parameters
    kda = config["linear_attn_config"]
    assert isinstance(kda, dict)
    full_rank = from_config(config | {"linear_attn_config": kda | {"use_full_rank_gate": True}})
    per_layer = 2304 * 4096 - 128 * (2304 + 4096)
    assert full_rank.parameters - plain.parameters == 20 * per_layer


def test_gigachat_has_gdn_layers_and_gated_latent_attention() -> None:
    cost = from_config(GIGACHAT)
    assert cost.kv_bytes_per_token == 3 * (512 + 64) * 2
    ungated = from_config(GIGACHAT | {"gated_attention": False})
    assert cost.parameters - ungated.parameters == 3 * 1280 * 16 * 128
    types = ["full_attention" if layer in (3, 7, 11) else "linear_attention" for layer in range(12)]
    assert from_config(GIGACHAT | {"layer_types": types}) == cost


def test_jet_nemotron_has_full_and_windowed_layers() -> None:
    cost = from_config(JET_NEMOTRON)
    per_layer = 2 * 2 * 128 * 2
    assert cost.kv_bytes_per_token == per_layer
    (window,) = cost.windows
    assert (window.window, window.kv_bytes_per_token) == (1152, per_layer)


def test_recurrent_states_take_the_type_the_config_names() -> None:
    config = preset_config("qwen3-next-80b-a3b")
    conv = 36 * 3 * (2 * 16 * 128 + 32 * 128) * 2
    elements = 36 * 32 * 128 * 128
    assert from_config(config).state_bytes == elements * 4 + conv
    half = from_config({**config, "mamba_ssm_dtype": "bfloat16"})
    assert half.state_bytes == elements * 2 + conv
    assert from_config(config, state_dtype_bytes=1).state_bytes == elements + conv
    assert from_config(config, kv_dtype_bytes=1).kv_bytes_per_token == 12 * 2 * 2 * 256
    assert from_config(config, conv_dtype_bytes=4).state_bytes == elements * 4 + 2 * conv


def test_a_sliding_window_bounds_flops_and_kv() -> None:
    cost = from_config(GPT_OSS_120B)
    (window,) = cost.windows
    per_layer = 2 * 8 * 64 * 2
    assert window.window == 128
    assert cost.kv_bytes(100) == 36 * per_layer * 100
    assert cost.kv_bytes(1000) == 18 * per_layer * (1000 + 128)
    assert window.flops_per_key == 2 * cost.flops_per_token_squared


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(UnknownModelError, match="'rwkv7'") as caught:
        from_config({"model_type": "rwkv7", "hidden_size": 8})
    assert caught.value.model_type == "rwkv7"
    assert isinstance(caught.value, UnsupportedModelError)


UNKNOWN_LAYERS: dict[str, tuple[dict[str, object], str]] = {
    "nemotron": ({**preset_config("nemotron-h-8b"), "hybrid_override_pattern": "M-X"}, "X"),
    "qwen": ({**preset_config("qwen3-next-80b-a3b"), "layer_types": ["sparse"]}, "sparse"),
    "granite": ({**preset_config("granite-4.0-h-tiny"), "layer_types": ["rwkv"]}, "rwkv"),
    "lfm2": ({**preset_config("lfm2-2.6b"), "layer_types": ["fft"]}, "fft"),
    "minimax": ({**PUBLISHED["minimax-text-01"].config, "attn_type_list": [0, 2]}, "2"),
    "gpt_oss": ({**GPT_OSS_120B, "layer_types": ["chunked_attention"]}, "chunked_attention"),
    "gigachat": ({**GIGACHAT, "layer_types": ["rwkv"]}, "rwkv"),
    "jet": ({**JET_NEMOTRON, "layer_types": ["mamba"]}, "mamba"),
    "zaya": ({**preset_config("zaya1-8b"), "layer_types": ["hybrid_sliding"]}, "hybrid_sliding"),
    "inkling": ({**preset_config("inkling"), "layer_types": ["full"]}, "full"),
    "glm": ({**preset_config("glm-5.3-flash"), "layer_types": ["mamba"]}, "mamba"),
    "qwen4": ({**preset_config("qwen3.8-flash-next"), "layer_types": ["mamba"]}, "mamba"),
    "minicpm": ({**MINICPM_SALA, "mixer_types": ["gla"]}, "gla"),
    "puzzle": ({**NEMOTRON_PUZZLE, "block_configs": [{"block_type": "gdn"}]}, "gdn"),
    "ling": (
        LING | {"gated_attention_proj_granularity_type": "token_wise"},
        "MLA with a token_wise gate",
    ),
}


@pytest.mark.parametrize(("config", "layer"), UNKNOWN_LAYERS.values(), ids=UNKNOWN_LAYERS)
def test_an_unknown_layer_is_named(config: dict[str, object], layer: str) -> None:
    with pytest.raises(UnknownLayerError) as caught:
        from_config(config)
    assert caught.value.layer_type == layer
    assert caught.value.model_type == config["model_type"]
    assert repr(layer) in str(caught.value)
    assert repr(config["model_type"]) in str(caught.value)


@pytest.mark.parametrize("field", ["hidden_size", "mamba_num_heads", "ssm_state_size"])
def test_a_missing_or_malformed_field_is_named(field: str) -> None:
    config = dict(preset_config("nemotron-h-8b"))
    with pytest.raises(ConfigFieldError, match=f"'nemotron_h'.*'{field}'"):
        from_config({key: value for key, value in config.items() if key != field})
    with pytest.raises(ConfigFieldError, match=f"'nemotron_h'.*'{field}'.*'many'"):
        from_config(config | {field: "many"})


def test_a_list_of_layers_must_be_a_list() -> None:
    with pytest.raises(ConfigFieldError, match=r"'layers_block_type'.*'MMM'"):
        from_config({**preset_config("nemotron-h-8b"), "layers_block_type": "MMM"})
    with pytest.raises(ConfigFieldError, match=r"'attn_layer_indices'.*\['9'\]"):
        from_config({**BAMBA, "attn_layer_indices": ["9"]})
    without = {key: value for key, value in BAMBA.items() if key != "attn_layer_indices"}
    assert from_config(without).kv_bytes_per_token == 0


def test_presets_are_looked_up_by_name() -> None:
    assert preset("kimi-linear-48b-a3b") == from_config(preset_config("kimi-linear-48b-a3b"))
    with pytest.raises(KeyError, match="nemotron-h-8b"):
        preset("gpt-2")
