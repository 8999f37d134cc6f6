"""The other families that serve without a GPU, with random weights: the same reuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.client import flush, generate
from support.forked_server import MARCONI, ForkedServer
from support.prompts import tokens

pytestmark = pytest.mark.server

MAMBA = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "mamba_n_heads": 8,
    "mamba_d_head": 32,
    "mamba_n_groups": 1,
    "mamba_d_state": 32,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 64,
    "hidden_act": "silu",
}
GRANITE = {
    **MAMBA,
    "model_type": "granitemoehybrid",
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "intermediate_size": 64,
    "layer_types": ["mamba", "attention", "mamba", "mamba"],
    "position_embedding_type": "nope",
}
LFM2 = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "layer_types": ["conv", "full_attention", "conv", "conv"],
    "conv_L_cache": 3,
    "conv_bias": False,
    "norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Falcon-H1": {
        **MAMBA,
        "model_type": "falcon_h1",
        "architectures": ["FalconH1ForCausalLM"],
        "intermediate_size": 256,
        "head_dim": 32,
        "mamba_d_ssm": 256,
    },
    "Granite 4.0-H": {
        **GRANITE,
        "shared_intermediate_size": 256,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
    },
    "Granite 4.0-H with experts": {
        **GRANITE,
        "shared_intermediate_size": 64,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "LFM2": {
        **LFM2,
        "model_type": "lfm2",
        "architectures": ["Lfm2ForCausalLM"],
        "block_auto_adjust_ff_dim": False,
        "block_ff_dim": 128,
        "block_dim": 64,
        "conv_dim": 64,
    },
    "LFM2-MoE": {
        **LFM2,
        "model_type": "lfm2_moe",
        "architectures": ["Lfm2MoeForCausalLM"],
        "num_dense_layers": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "use_expert_bias": True,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_branches_and_turns_are_reused(family: str, model: Path, tmp_path: Path) -> None:
    for file in model.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shared = json.loads((model / "config.json").read_text())
    kept = ("dtype", "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
    config = {key: shared[key] for key in (*kept, "max_position_embeddings")}
    config |= FAMILIES[family]
    (tmp_path / "config.json").write_text(json.dumps(config))
    log = tmp_path / "server.log"
    with ForkedServer(tmp_path, *MARCONI, "--load-format", "dummy", log_path=log) as server:
        prefix = tokens(257, seed=1)
        branching = [[*prefix, 1001 + i, *tokens(40, seed=100 + i)] for i in range(3)]
        assert [generate(server.url, p, 4).cached_tokens for p in branching] == [0, 0, 257]
        flush(server.url)
        prompt, seen = tokens(60, seed=4), []
        for turn in range(4):
            reply = generate(server.url, prompt, 17)
            seen.append(reply.cached_tokens)
            prompt = prompt + reply.output_ids + tokens(60, seed=40 + turn)
        assert seen == [0, 76, 153, 230]
