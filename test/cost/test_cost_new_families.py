"""Forms that the configs of newer families come in, and what their parts add up to."""

from __future__ import annotations

from sglang_marconi.cost import from_config, preset, preset_config
from support.new_families import (
    INKLING,
    MINICPM_SALA,
    NEMOTRON_PUZZLE,
    ZAYA1_BASE,
)


def test_zayas_layers_may_be_listed_or_counted_together() -> None:
    in_transformers = preset("zaya1-8b")
    assert from_config(ZAYA1_BASE) == in_transformers
    listed = {
        **ZAYA1_BASE,
        "zaya_layers": ["a", 16] * 40,
        "cca_num_q_heads": [8, 0] * 40,
        "num_query_groups_list": [2, 0] * 40,
        "ffn_hidden_size_list": [0, 4096] * 40,
        "zaya_mlp_expansion": [0, 256] * 40,
        # What the lists are there in place of.
        "num_attention_heads": 16,
        "num_hidden_layers": 7,
        "ffn_hidden_size": 1,
    }
    assert from_config(listed) == in_transformers
    without_skipping = from_config(ZAYA1_BASE | {"zaya_use_mod": False})
    assert in_transformers.parameters - without_skipping.parameters == 40 * 256


def test_inkling_goes_by_the_names_of_sglang_and_of_transformers() -> None:
    assert from_config(INKLING) == preset("inkling")
    layers = range(66)
    types = ["hybrid_sliding" if (layer + 1) % 6 else "hybrid" for layer in layers]
    assert from_config(preset_config("inkling") | {"layer_types": types}) == preset("inkling")
    first = {"mlp_layer_types": ["dense"] * 2 + ["sparse"] * 64}
    assert from_config(INKLING | {"dense_mlp_idx": 2}) == from_config(INKLING | first)


def test_the_window_of_inkling_bounds_what_it_keeps() -> None:
    cost = preset("inkling")
    (window,) = cost.windows
    assert (window.window, window.kv_bytes_per_token) == (512, 55 * 2 * 16 * 128 * 2)
    assert cost.kv_bytes_per_token == 11 * 2 * 8 * 128 * 2


def test_glm_may_attend_to_all_keys_and_have_one_stream() -> None:
    config = preset_config("glm-5.3-flash")
    dense = from_config({key: value for key, value in config.items() if key != "index_topk"})
    assert dense.windows == ()
    assert dense.flops_per_token_squared == 11 * 64 * (256 + 256)
    one = from_config(config | {"mhc": False})
    assert preset("glm-5.3-flash").parameters - one.parameters == 90 * 24 * 4 * 4096
    kda = {
        "kda_layers": [layer for layer in range(45) if layer % 4 != 3],
        "num_heads": 64,
        "head_dim": 128,
        "short_conv_kernel_size": 4,
    }
    nested = {key: value for key, value in config.items() if not key.startswith("linear_")}
    assert from_config(nested | {"linear_attn_config": kda}) == preset("glm-5.3-flash")
    types = ["indexed_attention" if layer % 4 == 3 else "linear_attention" for layer in range(45)]
    assert from_config(config | {"layer_types": types}) == preset("glm-5.3-flash")


def test_qwen4_keeps_its_last_tokens_and_tables_of_them() -> None:
    config = preset_config("qwen3.8-flash-next")
    cost = from_config(config | {"ple_layer_ids": [2, 10]})
    without = from_config(config | {"ple_layer_ids": None})
    window = 3 * 3 * 4 * 2560
    assert cost.state_bytes - without.state_bytes == 2 * window * 2 + 2 * 8
    tables = 2 * 16 * 20_000_000 * 160
    projections = 2 * (2560 * 5 * 2560 + 4 * 4 * 2560)
    assert cost.parameters - without.parameters == tables + projections
    assert cost.active_parameters - without.active_parameters == projections


def test_qwen4_may_attend_to_all_keys() -> None:
    config = preset_config("qwen3.8-flash-next")
    dense = from_config(
        {key: value for key, value in config.items() if not key.startswith("indexer_")}
    )
    assert dense.windows == ()
    assert dense.kv_bytes_per_token == 12 * 2 * 2 * 256 * 2
    chosen = preset("qwen3.8-flash-next")
    assert chosen.kv_bytes_per_token == dense.kv_bytes_per_token + 12 * 128 * 2 // 4
    assert chosen.flops_per_token_squared == 12 * 4 * 128 / 4
    types = (["linear_attention"] * 3 + ["qwen_sparse_attention"]) * 12
    assert from_config(config | {"layer_types": types}) == chosen


def test_a_puzzles_blocks_differ() -> None:
    cost = from_config(NEMOTRON_PUZZLE)
    mamba = 256 * (2 * 512 + 2 * 4 * 32 + 16) + 512 * 256 + (512 + 2 * 4 * 32) * 4
    attention = 256 * (2 * 256 + 2 * 64)
    few = 256 * 8 + 8 * 2 * 256 * 128 + 2 * 256 * 256
    narrow = 256 * 16 + 16 * 2 * 256 * 96 + 2 * 256 * 256
    assert cost.parameters == mamba + attention + few + narrow + 2 * 1000 * 256
    assert cost.kv_bytes_per_token == 2 * 2 * 32 * 2


def test_minicpm_repeats_its_mixers_and_may_attend_to_all_keys() -> None:
    cost = from_config(MINICPM_SALA)
    repeated = {"mixer_types": ["standard", "lightning-attn", "lightning_attn", "lightning"] * 8}
    assert from_config(MINICPM_SALA | repeated) == cost
    dense = from_config(MINICPM_SALA | {"sparse_config": None})
    assert dense.flops_per_token_squared == 8 * 4 * 4096 / 2
    # A slot of KV for each of 16 tokens, and one for each of 64.
    assert cost.kv_bytes_per_token == dense.kv_bytes_per_token * 69 / 64
    (window,) = cost.windows
    assert window.window == 64 * 64 + 2048
    gates = 24 * 4096 * 4096 + 8 * 4096 * 4096
    ungated = {"use_output_gate": False, "attn_use_output_gate": False}
    assert cost.parameters - from_config(MINICPM_SALA | ungated).parameters == gates


def test_mobius_has_its_experts_once_and_uses_them_in_turn() -> None:
    qwen = preset("qwen3.5-35b-a3b")
    mobius = preset_config("qwen3.5-35b-a3b") | {"model_type": "interns2_mobius_text"}
    cost = from_config(mobius | {"num_blocks": 3})
    assert cost.prefill_flops(0, 99) == qwen.prefill_flops(0, 99)
    assert cost.active_parameters == qwen.active_parameters
    bank = 2048 * 256 + 256 * 3 * 2048 * 512
    assert qwen.parameters - cost.parameters == 37 * bank
    assert from_config(mobius) == from_config(mobius | {"num_blocks": 4})
